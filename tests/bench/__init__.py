"""Measurements, each one command: `python -m tests.bench.NAME`. None of them is a test."""
