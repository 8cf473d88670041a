"""
How many questions a video needs, and how late it is found: `python -m tests.bench.questions`.

The schedule of vidgen (`vidgen.schedule`) against drawn generation times, without servers and
without waiting: log-normal times that drift, of videos that begin all at once or in a steady
stream. Beside it stands looking every five seconds. All that costs time elsewhere (a busy machine,
the way to the provider, the transfer) is left out: this is what the schedule can be.

    fixed     every five seconds
    single    each by itself, as planned
    lists     one list for many, as planned; each page is a question
"""

import argparse
import heapq
import itertools
import random
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import get_args

import orjson
from rich.console import Console
from rich.table import Table

from tests.bench.scorecard import percentile
from tests.bench.wire import Pace, Telling, percent_of
from vidgen import schedule
from vidgen.schedule import Experience, Trail

FIXED_S = 5.0
PAGE = 100
FEW = 3


@dataclass(slots=True)
class Video:
    number: int
    begins_s: float
    takes_s: float
    found_s: float = -1.0
    next_s: float = 0.0
    told_s: float = -1.0
    trail: Trail = field(default_factory=lambda: Trail(Experience()))

    @property
    def ready_s(self) -> float:
        return self.begins_s + self.takes_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a way of asking came to; lag from the ready video to the look that found it."""

    way: str
    stream: str
    progress: Telling
    interval_s: float
    videos: int
    questions: float
    lag_mean: float
    lag_p50: float
    lag_p95: float


@dataclass(slots=True)
class Replay:
    """Videos of one kind and who asks for them."""

    interval_s: float
    telling: Telling
    experience: Experience = field(default_factory=Experience)
    questions: int = 0

    def follow(self, video: Video) -> None:
        video.trail = Trail(self.experience)

    def see(self, video: Video, now_s: float) -> bool:
        age_s = now_s - video.begins_s
        if now_s >= video.ready_s:
            video.found_s = now_s
            video.trail.saw_ready(age_s)
            return True
        video.trail.saw_running(age_s, percent_of(age_s / video.takes_s, self.telling))
        return False

    def plan(self, video: Video, now_s: float, dice: random.Random) -> None:
        age_s = now_s - video.begins_s
        video.next_s = now_s + video.trail.look_in_s(age_s, self.interval_s, None, dice.random())


def fixed(videos: list[Video]) -> int:
    questions = 0
    for video in videos:
        looks = int(video.takes_s // FIXED_S) + 1
        questions += looks
        video.found_s = video.begins_s + looks * FIXED_S
    return questions


def single(videos: list[Video], replay: Replay, dice: random.Random) -> int:
    order = [(video.begins_s, video.number, False) for video in videos]
    heapq.heapify(order)
    while order:
        now_s, number, is_look = heapq.heappop(order)
        video = videos[number]
        if not is_look:
            replay.follow(video)
        else:
            replay.questions += 1
            if replay.see(video, now_s):
                continue
        replay.plan(video, now_s, dice)
        heapq.heappush(order, (video.next_s, number, True))
    return replay.questions


def listed(videos: list[Video], replay: Replay, dice: random.Random) -> int:
    """As `vidgen.pipeline.lookout` reads lists: see there."""
    order: list[tuple[float, int, str]] = [(each.begins_s, each.number, "begin") for each in videos]
    heapq.heapify(order)
    flying: dict[int, Video] = {}
    is_read, pace_s = False, replay.interval_s
    while order:
        now_s, number, what = heapq.heappop(order)
        if what == "list":
            pace_s = _list(videos, flying, replay, now_s, pace_s)
            is_read = len(flying) >= FEW
            if is_read:
                heapq.heappush(order, (now_s + pace_s, -1, "list"))
            continue
        video = videos[number]
        if video.found_s >= 0:
            continue
        if what == "begin":
            flying[number] = video
            replay.follow(video)
            if not is_read and len(flying) >= FEW:
                is_read = True
                heapq.heappush(order, (now_s, -1, "list"))
        elif now_s - video.told_s >= max(replay.interval_s, 2 * pace_s):
            replay.questions += 1
            if replay.see(video, now_s):
                del flying[number]
                continue
        replay.plan(video, now_s, dice)
        heapq.heappush(order, (video.next_s, number, "look"))
    return replay.questions


def _list(
    videos: list[Video], flying: dict[int, Video], replay: Replay, now_s: float, pace_s: float
) -> float:
    soon_s = now_s + max(pace_s, replay.interval_s)
    missing, ready_per_s = set(), 0.0
    for number, video in flying.items():
        chance = video.trail.ready_per_s(now_s - video.begins_s, replay.interval_s, None)
        is_likely = chance * replay.interval_s >= schedule.WORTH_LISTING
        if video.next_s <= soon_s or is_likely:
            missing.add(number)
            ready_per_s += chance
    if len(missing) < FEW:
        return pace_s
    newest = max(flying)
    cap, pages = max(1, len(missing) // FEW), 0
    for page in range(cap):
        pages += 1
        replay.questions += 1
        shown = range(newest - page * PAGE, max(newest - (page + 1) * PAGE, -1), -1)
        for number in shown:
            if number in missing:
                missing.discard(number)
                videos[number].told_s = now_s
                if replay.see(videos[number], now_s):
                    del flying[number]
        if len(missing) < FEW or len(shown) < PAGE:
            break
    return schedule.list_in_s(ready_per_s, pages, replay.interval_s)


def drawn(pace: Pace, count: int, gaps_s: Iterator[float]) -> list[Video]:
    dice, begins_s, videos = random.Random(1), 0.0, []
    for number in range(count):
        videos.append(Video(number, begins_s, pace.draw_s(dice, number)))
        begins_s += next(gaps_s)
    return videos


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--median-s", type=float, default=60.0)
    parser.add_argument("--sigma", type=float, default=0.3)
    parser.add_argument("--drift", type=float, default=0.5)
    parser.add_argument("--warm-up", type=int, default=200)
    parser.add_argument("--interval-s", type=float, nargs="+", default=[5.0, 2.0])
    arguments = parser.parse_args()
    table = Table(*[each.name.replace("_", " ") for each in fields(Figures)], title="questions")
    for stream, count in (("at once", 200), ("at once", 1000), ("steady", 200)):
        ways: list[tuple[str, Telling, float]] = [("fixed", "nothing", FIXED_S)]
        for interval_s in arguments.interval_s:
            ways += [("single", each, interval_s) for each in get_args(Telling)]
            ways += [("lists", each, interval_s) for each in ("nothing", "even")]
        for way, telling, interval_s in ways:
            figures = replayed(way, stream, count, interval_s, telling, arguments)
            table.add_row(*[str(figure) for figure in asdict(figures).values()])
            sys.stdout.write(orjson.dumps(figures).decode() + "\n")
    Console(stderr=True, width=120).print(table)


def replayed(
    way: str,
    stream: str,
    count: int,
    interval_s: float,
    telling: Telling,
    arguments: argparse.Namespace,
) -> Figures:
    replay, dice = Replay(interval_s, telling), random.Random(2)
    still = Pace(median_s=arguments.median_s, sigma=arguments.sigma)
    before = drawn(still, arguments.warm_up, itertools.repeat(0.0))
    single(before, replay, dice)
    replay.questions = 0
    pace = Pace(median_s=arguments.median_s, sigma=arguments.sigma, drift=arguments.drift)
    is_steady = stream == "steady"
    gap_s = arguments.median_s / count if is_steady else 0.0
    videos = drawn(pace, count * (5 if is_steady else 1), itertools.repeat(gap_s))
    match way:
        case "fixed":
            questions = fixed(videos)
        case "single":
            questions = single(videos, replay, dice)
        case _:
            questions = listed(videos, replay, dice)
    lags = sorted(video.found_s - video.ready_s for video in videos)
    p50, p95 = percentile(lags, 50), percentile(lags, 95)
    assert p50 is not None
    assert p95 is not None
    return Figures(
        way=way,
        stream=stream,
        progress=telling,
        interval_s=interval_s,
        videos=len(videos),
        questions=round(questions / len(videos), 2),
        lag_mean=round(sum(lags) / len(lags), 2),
        lag_p50=round(p50, 2),
        lag_p95=round(p95, 2),
    )


if __name__ == "__main__":
    main()
