"""
The command line: `vidgen`.

    app.py          the program: help, exit codes, the one error boundary
    processes.py    demo dev worker serve migrate health
    videos.py       submit watch jobs show cancel retry
    steering.py     stats pause resume drain workers providers audit deliveries replay
    keys.py         keys add, list, rotate, remove
    users.py        forget
    money.py        spend; budgets list, set, remove
    checkup.py      doctor
    door.py         what most commands open, and the record they leave
    words.py        what is typed, as values: times, images, KEY=VALUE; what a shell completes
    tables.py       what is told: tables, plain lines, JSON

Everything heavy is imported by the command that needs it: `vidgen --help` is there at once.
"""

# Each registers its commands; the help has them in this order.
import vidgen.cli.processes
import vidgen.cli.videos

import vidgen.cli.steering  # isort: skip
import vidgen.cli.keys  # isort: skip
import vidgen.cli.users  # isort: skip
import vidgen.cli.money  # isort: skip
import vidgen.cli.checkup  # noqa: F401  isort: skip
from vidgen.cli.app import app, main

__all__ = ["app", "main"]
