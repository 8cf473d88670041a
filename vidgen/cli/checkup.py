"""The command `doctor`: is everything there that vidgen needs?"""

from dataclasses import asdict

import typer

from vidgen.cli.app import REFUSED, AsJson, app, run
from vidgen.cli.processes import RUN


@app.command(rich_help_panel=RUN)
def doctor(as_json: AsJson = False) -> None:
    """
    Check all that vidgen needs, and say how to mend what is wrong. Costs nothing.

    Settings, PostgreSQL and its schema, Redis and its memory, the bucket (by writing, reading and
    deleting an object), clocks, keys and models of the providers, secrets, workers. Exit code 1 if
    there is a problem; warnings alone are 0.
    """
    from vidgen.cli import tables
    from vidgen.dev import screen
    from vidgen.doctor import checkup
    from vidgen.doctor.finding import State
    from vidgen.settings import Settings

    findings = run(checkup.examine(Settings.load))
    is_healthy = all(finding.state is not State.PROBLEM for finding in findings)
    if as_json:
        checks = [asdict(finding) for finding in findings]
        tables.write_json({"healthy": is_healthy, "checks": checks})
    else:
        tables.show_findings(findings, screen.console())
    raise typer.Exit(0 if is_healthy else REFUSED)
