"""The command `doctor`: is everything there that vidgen needs?"""

from dataclasses import asdict

import typer

from vidgen.cli.app import REFUSED, AsJson, app, run
from vidgen.cli.processes import RUN


@app.command(rich_help_panel=RUN)
def doctor(as_json: AsJson = False) -> None:
    """
    Check all that vidgen needs, and say how to mend what is wrong. Costs nothing.

    Looks at settings, PostgreSQL and its schema, Redis and its memory, the
    bucket (writes, reads and deletes a small object), clocks, keys and models
    of the providers, secrets and workers.

    Exit code 0 if there is no problem, else 1; warnings alone are none.
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
