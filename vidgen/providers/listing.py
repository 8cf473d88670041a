"""
A server's list of videos as evidence: is the video of a lost receipt there, or provably not?

A wrong "not there" pays twice, so silence proves nothing. A listed video is

    ours        same prompt, and nothing it tells speaks against it
    other       one thing it tells proves that: the prompt, the seconds or the size differ, or
                what this server repeats as it was sent
    doubtful    everything else: no prompt told, a cut one, another model's name, no usable id

Spelling is no difference: 8.0 is "8", `openai/sora-2` is `sora-2`, and spaces, case and forms of
letters in a prompt do not count.

The list as a whole is trusted if we saw all of it that matters and it demonstrably lists what the
server accepts: it is the vendor's own, or it shows at least one video with an id and a time and its
answers carry a clock. An unknown gateway's empty list may always be empty.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from vidgen.errors import ProtocolError
from vidgen.job import JsonValue, Operation
from vidgen.providers.answer import moment, number
from vidgen.providers.protocol import Listing

Likeness = Literal["ours", "doubtful", "other"]

_SIZE = re.compile(r"\s*(\d{1,6})\s*[x×*:]\s*(\d{1,6})\s*", re.IGNORECASE)
_SNAPSHOT = re.compile(r"-\d{4}-\d{2}-\d{2}$")
_CUT = " .…"  # of a normal prompt, which has no other spaces
# Servers may tell what came out (8.04 s of frames) in place of what was asked for.
_SECONDS_TOLERANCE = 0.5


@dataclass(slots=True, kw_only=True)
class Reading:
    """
    What the pages of one list have shown so far, in the order they came.

    Attributes:
        fields: The lost submit as it was sent.
        since: Our time before which the video cannot have been made.
        at_vendor: The list is the vendor's own, known to be complete and newest first.
        operation_of: What a listed video would be followed by; ProtocolError if by nothing.
        exact: Further fields that the server repeats just as they were sent.
    """

    fields: Mapping[str, JsonValue]
    since: datetime
    at_vendor: bool
    operation_of: Callable[[Mapping[str, Any]], Operation]
    exact: tuple[str, ...] = ()
    _found: list[tuple[Likeness, datetime, Operation]] = field(default_factory=list)
    _seen: set[str] = field(default_factory=set)
    _last_id: str | None = None
    _latest: datetime | None = None  # the time of the video before
    _falls: bool = False  # times were seen to go down
    _rises: bool = False  # … and up, so that an old video does not end the list
    _is_whole: bool = False
    _shows_videos: bool = False
    _tells_time: bool = False
    _is_readable: bool = True

    def take(self, page: Mapping[str, Any], date: str | None, now: datetime) -> str | None:
        """
        Take in the next page; the id after which the following one begins, None at the end.

        Args:
            date: The `Date` header that came with it at *now*, our time.
        """
        videos = page["data"]
        cut = self._cut(date, now)
        known, is_old = len(self._seen), False
        for video in videos:
            is_old = self._weigh(video, cut)
        if page.get("has_more") is False:
            self._is_whole = True
        elif (
            len(self._seen) == known
        ):  # an empty page is the end; a repeated one means that pages are not told
            self._is_whole = not videos
        elif is_old and not self._rises and (self._falls or self.at_vendor):
            self._is_whole = True
        else:
            return self._last_id
        return None

    def listing(self) -> Listing:
        """What all pages together say."""
        found = sorted(self._found, key=lambda each: each[1], reverse=True)
        proven = self._shows_videos and self._tells_time
        return Listing(
            candidates=tuple(each[2] for each in found if each[0] == "ours"),
            doubtful=tuple(each[2] for each in found if each[0] == "doubtful"),
            trusted=self._is_whole and self._is_readable and (self.at_vendor or proven),
        )

    def _weigh(self, video: object, cut: datetime) -> bool:
        """Remember *video* if it may be ours; True if it is too old for that."""
        if not isinstance(video, dict):
            self._is_readable = False
            return False
        kind, created_at = likeness(video, self.fields, self.exact), _created_at(video)
        is_old = created_at is not None and created_at < cut
        try:
            operation = self.operation_of(video)
        except ProtocolError:  # nobody can follow it, but it may be the one that was paid for
            self._is_readable = self._is_readable and (is_old or kind == "other")
            return is_old
        self._last_id = operation.id
        if operation.id in self._seen:
            return is_old
        self._seen.add(operation.id)
        if created_at is not None:
            self._shows_videos = True
            self._falls |= self._latest is not None and created_at < self._latest
            self._rises |= self._latest is not None and created_at > self._latest
            self._latest = created_at
        if not is_old and kind != "other":
            # The oldest is adopted first: one without a time comes last there.
            self._found.append((kind, created_at or datetime.max.replace(tzinfo=UTC), operation))
        return is_old

    def _cut(self, date: str | None, now: datetime) -> datetime:
        """*since* by the server's clock, in whole seconds as the list tells them."""
        since = self.since
        try:
            server_now = parsedate_to_datetime(date or "")
            aware = server_now if server_now.tzinfo is not None else server_now.replace(tzinfo=UTC)
            # Only ever earlier: the clock of a gateway may be ahead of the one behind it, and a
            # video that is left out by mistake is paid for twice.
            since += min(aware - now, timedelta(0))
            self._tells_time = True
        except (ValueError, TypeError, OverflowError):
            pass
        return since.replace(microsecond=0)


def likeness(
    video: Mapping[str, Any], fields: Mapping[str, JsonValue], exact: tuple[str, ...] = ()
) -> Likeness:
    """What the listed *video* is to the submit of *fields*; see `Reading.exact`."""
    if any(_differs(_told, video.get(name), fields.get(name)) for name in exact):
        return "other"
    if _differs(_seconds, video.get("seconds"), fields.get("seconds")):
        return "other"
    if _differs(_size, video.get("size"), fields.get("size")):
        return "other"
    told, wanted = _normal(video.get("prompt")), _normal(fields.get("prompt"))
    if told != wanted and not _may_be_cut(told, wanted):
        return "other"
    is_same_model = _model(video.get("model")) in {None, _model(fields.get("model"))}
    return "ours" if told == wanted != "" and is_same_model else "doubtful"


def _differs(read: Any, told: object, wanted: object) -> bool:
    """Whether both can be read, and are not the same."""
    one, other = read(told), read(wanted)
    if one is None or other is None:
        return False
    if isinstance(one, float):
        return not math.isclose(one, other, abs_tol=_SECONDS_TOLERANCE, rel_tol=0)
    return bool(one != other)


def _told(value: object) -> str | int | None:
    return value if isinstance(value, str | int) else None


def _seconds(value: object) -> float | None:
    return number(value.strip().removesuffix("s") if isinstance(value, str) else value)


def _size(value: object) -> tuple[int, int] | None:
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    return None if found is None else (int(found[1]), int(found[2]))


def _model(value: object) -> str | None:
    """The name without the gateway's prefix and without the date of a snapshot."""
    if not isinstance(value, str) or not value.strip():
        return None
    return _SNAPSHOT.sub("", value.strip().rpartition("/")[2].lower())


def _normal(value: object) -> str:
    """A prompt without what servers change in passing; empty if none is told."""
    text = unicodedata.normalize("NFKC", value) if isinstance(value, str) else ""
    kept = "".join(" " if char.isspace() else char for char in text)
    return " ".join("".join(char for char in kept if char.isprintable()).split()).casefold()


def _may_be_cut(told: str, wanted: str) -> bool:
    """Whether *told* may be *wanted*, shortened, starred out, or with something put around it."""
    if not any(char.isalnum() for char in told):
        return True
    return wanted.startswith(told.rstrip(_CUT)) or wanted in told


def _created_at(video: Mapping[str, Any]) -> datetime | None:
    return moment(video.get("created_at")) or moment(video.get("created"))
