"""The stages against real servers and simulated providers, without arq in between."""
