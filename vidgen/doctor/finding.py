"""What a check came to."""

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"  # it works, but not as well, or not for long
    PROBLEM = "problem"  # it does not work


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """
    What a check came to.

    Attributes:
        name: What was looked at; the same for every run.
        remedy: How to mend it; empty if nothing is wrong.
    """

    name: str
    state: State
    sentence: str
    remedy: str = ""


def ok(name: str, sentence: str) -> Finding:
    """All is well."""
    return Finding(name=name, state=State.OK, sentence=sentence)


def warning(name: str, sentence: str, remedy: str) -> Finding:
    """It works, but not as well, or not for long."""
    return Finding(name=name, state=State.WARNING, sentence=sentence, remedy=remedy)


def problem(name: str, sentence: str, remedy: str) -> Finding:
    """It does not work."""
    return Finding(name=name, state=State.PROBLEM, sentence=sentence, remedy=remedy)
