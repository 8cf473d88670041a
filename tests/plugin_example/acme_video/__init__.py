"""Acme's videos, for vidgen."""
