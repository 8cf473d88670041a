"""
The command line: `vidgen`.

    app.py          the program: help, exit codes, the one error boundary
    processes.py    demo dev worker serve migrate health
    videos.py       submit watch jobs show cancel retry stats
    words.py        what is typed, as values: times, images, KEY=VALUE
    tables.py       what is told: tables, plain lines, JSON

Everything heavy is imported by the command that needs it: `vidgen --help` is there at once.
"""

import vidgen.cli.processes
import vidgen.cli.videos  # noqa: F401  both register their commands
from vidgen.cli.app import app, main

__all__ = ["app", "main"]
