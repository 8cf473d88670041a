"""Dev mode: everything a video needs on this machine alone, started and stopped by us."""
