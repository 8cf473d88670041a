"""What a test expects of an enqueued video, how a job differs, and how that is told. Pure."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import SequenceMatcher, get_close_matches
from typing import Any, TypedDict

from vidgen.job import JobStatus, JsonValue, VideoJob

SHOWN_JOBS = 5
SHOWN_CHARACTERS = 120

Check = Callable[[Any], object]


class Expected(TypedDict, total=False):
    """
    What the service asked for, by the names that `VideoRequest` and `enqueue` have for it.

    Each is a value, or a function that says whether a value will do. A text may also be a compiled
    pattern, which is searched for; of *metadata* and *extra* only the named keys count. A request
    is compared as it was accepted: with the model's defaults filled in.
    """

    provider: str | re.Pattern[str] | Check
    model: str | re.Pattern[str] | Check
    prompt: str | re.Pattern[str] | Check
    seconds: int | Check | None
    size: str | re.Pattern[str] | Check | None
    aspect_ratio: str | re.Pattern[str] | Check | None
    resolution: str | re.Pattern[str] | Check | None
    negative_prompt: str | re.Pattern[str] | Check | None
    seed: int | Check | None
    audio: bool | Check | None
    extra: Mapping[str, JsonValue | Check] | Check
    scene_id: str | re.Pattern[str] | Check | None
    user_id: str | re.Pattern[str] | Check | None
    idempotency_key: str | re.Pattern[str] | Check | None
    priority: int | Check
    run_at: datetime | Check
    deadline_s: int | Check
    webhook_url: str | re.Pattern[str] | Check | None
    metadata: Mapping[str, JsonValue | Check] | Check
    status: JobStatus | str | Check


@dataclass(frozen=True, slots=True)
class _Containing:
    parts: tuple[str, ...]

    def __call__(self, text: str) -> bool:
        return all(part in text for part in self.parts)

    def __repr__(self) -> str:
        return f"containing {' and '.join(map(repr, self.parts))}"


def containing(*parts: str) -> Check:
    """Expect a text with all of *parts* in it, e.g. `prompt=containing("tram", "rain")`."""
    return _Containing(parts)


def check_names(expected: Expected) -> None:
    """
    Refuse a name that no job has, which would never be found.

    Raises:
        TypeError: Names the nearest one that exists.
    """
    known = list(Expected.__annotations__)
    for name in expected:
        if name not in known:
            nearest = get_close_matches(name, known, n=1, cutoff=0)
            raise TypeError(f"a video has no {name!r} to be expected; did you mean {nearest[0]!r}?")


def fits(job: VideoJob, expected: Expected) -> bool:
    """Whether *job* is as *expected*."""
    return not _differences(job, expected)


def told(expected: Expected) -> str:
    """Say in a line for each what is *expected*."""
    return "\n".join(f"    {name} = {_wanted(wish)}" for name, wish in expected.items())


def told_jobs(jobs: Sequence[VideoJob], expected: Expected) -> str:
    """Tell of *jobs* what *expected* is about, the closest ones first."""
    closest = sorted(jobs, key=lambda job: _distance(job, expected))
    lines = [_told_job(job, expected) for job in closest[:SHOWN_JOBS]]
    if more := len(jobs) - SHOWN_JOBS:
        lines += [f"  and {more} more"] if more > 0 else []
    return "\n".join(lines)


def _told_job(job: VideoJob, expected: Expected) -> str:
    values, differences = _values(job), _differences(job, expected)
    lines = [f"  job {job.id}, {job.status}:"]
    for name in expected or ("provider", "prompt", "scene_id"):
        wrong = f"   <- {differences[name]}" if name in differences else ""
        lines.append(f"    {name} = {_shown(values[name])}{wrong}")
    return "\n".join(lines)


def _values(job: VideoJob) -> dict[str, Any]:
    """What *job* has under the names of `Expected`."""
    values: dict[str, Any] = {name: getattr(job, name, None) for name in Expected.__annotations__}
    values["run_at"] = job.due_at
    return values | {name: job.parameters[name] for name in job.parameters if name in values}


def _differences(job: VideoJob, expected: Expected) -> dict[str, str]:
    values = _values(job)
    found = {name: _difference(values[name], wish) for name, wish in expected.items()}
    return {name: difference for name, difference in found.items() if difference is not None}


def _difference(value: Any, wish: object) -> str | None:
    """How *value* is not what was wished for, None if it is."""
    if isinstance(wish, re.Pattern):
        fit = isinstance(value, str) and wish.search(value) is not None
    elif isinstance(wish, Mapping) and isinstance(value, Mapping):
        fit = all(name in value and _difference(value[name], wish[name]) is None for name in wish)
    elif callable(wish):
        try:
            fit = bool(wish(value))
        except Exception as error:  # noqa: BLE001  the test's own function, which may not know None
            return f"expected {_wanted(wish)}, which raised {type(error).__name__}: {error}"
    else:
        fit = bool(value == wish)
    return None if fit else f"expected {_wanted(wish)}{_where(value, wish)}"


def _where(value: object, wish: object) -> str:
    """Where two long texts part, as what is shown of them may be the same."""
    if not (isinstance(value, str) and isinstance(wish, str)):
        return ""
    if max(len(value), len(wish)) <= SHOWN_CHARACTERS:
        return ""
    pairs = enumerate(zip(value, wish, strict=False))
    at = next((at for at, (one, other) in pairs if one != other), min(len(value), len(wish)))
    return f"; they part at character {at}: {value[at : at + 20]!r}, not {wish[at : at + 20]!r}"


def _distance(job: VideoJob, expected: Expected) -> tuple[int, float, float]:
    """Fewest differences first, then the likest prompt, then the last enqueued."""
    prompt, alike = expected.get("prompt"), 0.0
    if isinstance(prompt, str):
        alike = SequenceMatcher(None, job.prompt[:1000], prompt[:1000]).ratio()
    return len(_differences(job, expected)), -alike, -job.created_at.timestamp()


def _wanted(wish: object) -> str:
    if isinstance(wish, re.Pattern):
        return f"a match of {wish.pattern!r}"
    if isinstance(wish, _Containing):
        return repr(wish)
    code = getattr(wish, "__code__", None)
    if code is not None:
        return f"what {code.co_name} in line {code.co_firstlineno} takes"
    return _shown(wish)


def _shown(value: object) -> str:
    text = repr(str(value)) if isinstance(value, JobStatus) else repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"
