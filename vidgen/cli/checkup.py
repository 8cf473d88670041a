"""The command `doctor`: is everything there that vidgen needs?"""

from dataclasses import asdict
from typing import Annotated

import typer

from vidgen.cli.app import REFUSED, WRONG_SETTINGS, AsJson, app, run
from vidgen.cli.processes import RUN


@app.command(rich_help_panel=RUN)
def doctor(
    servers: Annotated[
        bool,
        typer.Option("--servers", help="Only PostgreSQL, Redis and the bucket, before a start."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """
    Check all that vidgen needs, and say how to mend what is wrong. Costs nothing.

    Looks at settings, PostgreSQL and its schema, Redis and its memory, the
    bucket (writes, reads and deletes a small object), clocks, keys and models
    of the providers, secrets and workers.

    Exit code 0 if there is no problem, else 1, or 2 if the settings are not
    usable; warnings alone are none.
    """
    from vidgen.cli import tables
    from vidgen.dev import screen
    from vidgen.doctor import checkup
    from vidgen.doctor.finding import State
    from vidgen.settings import Settings

    findings = run(checkup.examine(Settings.load, checkup.SERVERS if servers else None))
    is_healthy = all(finding.state is not State.PROBLEM for finding in findings)
    if as_json:
        told = [asdict(finding) for finding in findings]
        tables.write_json({"healthy": is_healthy, "checks": told})
    else:
        tables.show_findings(findings, screen.console())
    if findings[0].state is State.PROBLEM:
        raise typer.Exit(WRONG_SETTINGS)
    raise typer.Exit(0 if is_healthy else REFUSED)
