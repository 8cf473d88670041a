"""Whole lives of jobs through a real arq worker, in a process of its own."""
