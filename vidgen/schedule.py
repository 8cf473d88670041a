"""
When to look: as few questions as a video needs, and soon after it is ready. Pure.

    Experience   how likely videos of a kind become ready at each age, from what looks have seen
    Guess        when one of them will be ready: a log-normal time
    look_in_s    its next look
    list_in_s    the next list, which looks at many

Nobody sees when a video becomes ready, only that it was not at one look and was at the next, and of
those that are under way only the quick ones have ended: who averages what has ended learns that
all are quick. So what is counted is, for each age, how many seconds videos have been seen at it and
how many became ready there, the newest most. That holds whether a thousand began together or one
after the other, and follows a drift within a hundred videos.
"""

import math
from dataclasses import dataclass

from vidgen.forecast import Duration

# From fewer videos nobody plans when to look.
ENOUGH_SAMPLES = 20
# A look is worth it once what became ready unseen would have waited so long, by expectation. With
# less, looks come closer than five seconds around the median of a minute. Measured by
# `tests.bench.questions`.
WORTH_A_LOOK_S = 0.3
LONGEST_LOOK_S = 30.0
# A straggler beyond all that was seen may take any time: so much of its age is worth waiting.
STRAGGLER_SHARE = 0.05
STRAGGLER_FROM = 3.0  # in standard deviations
LEAST_SPREAD = 0.05  # of the logarithm
# What was seen counts half after so many more videos.
HALF_AFTER = 50
# What others have learnt counts as much as so many videos seen here.
PRIOR_VIDEOS = 20
# A video that was ready at its first look became so about there: the quick ones are the fewest.
BEFORE_FIRST_LOOK = 0.9

# A guess is made anew after so much was seen.
GUESS_AFTER = 20
# What a provider says of progress is heeded from so much on, and if it is kept.
MIN_PERCENT = 5
LOOSE_SPREAD = 0.08
WORTH_HEEDING = 3
CLOSELY = 0.15
# So many are looked at as if nothing had been said: else nobody would learn that it is not kept.
ONE_DOUBTED_OF = 10
LEAST_PROMISE = 0.01
# Where promises are kept the first look hears one before any is ready: so many deviations.
BEFORE_ANY = 2.3
LATEST = 2.0  # likewise

# Of nobody knows how long: as if four times the interval were the usual time that is left.
UNKNOWN_INTERVALS = 4
# Two lists are so much of the interval apart, at least.
LIST_SHARE = 0.4
# A list asks for those, too, that become ready with such a chance within an interval: they cost
# nothing more.
WORTH_LISTING = 0.02
SECONDS_PER_PAGE = 0.25

_P10_TO_P90 = 2.5631  # in standard deviations
_ROOT_2 = math.sqrt(2)
_ROOT_2_PI = math.sqrt(2 * math.pi)
_LIMIT = 1e9
_MOMENT_S = 1e-6  # nothing is ready by then
_PARTS = 4  # of the progress, each with its own promises
# Ages in steps of a twentieth, from a tenth of a second to some hours.
_STEP = 0.05
_FIRST_S = 0.1
_STEPS = 240
_EDGES_S = (0.0, *(_FIRST_S * math.exp(_STEP * number) for number in range(_STEPS)), math.inf)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """
    When a video will be ready, counted from its receipt.

    Attributes:
        median_s: With a chance of one half it is ready by then.
        spread: The standard deviation of the logarithm.
    """

    median_s: float
    spread: float

    def ready_by(self, age_s: float) -> float:
        """The chance that it is ready at *age_s*."""
        return _below(self._deviations(age_s))

    def ready_per_s(self, age_s: float) -> float:
        """The chance a second to become ready, of one that is not at *age_s*."""
        if age_s < _MOMENT_S:
            return 0.0
        deviations = self._deviations(age_s)
        left = _below(-deviations)
        if left < 1e-9:  # by the numbers only
            return deviations / (self.spread * age_s)
        return _density(deviations) / (self.spread * age_s * left)

    def late_s(self, age_s: float, wait_s: float) -> float:
        """For how long it will have been ready *wait_s* after *age_s*, by expectation."""
        left = 1 - self.ready_by(age_s)
        if left < 1e-9:
            return math.inf
        gone = self._since_ready_s(age_s) + self.ready_by(age_s) * wait_s
        return (self._since_ready_s(age_s + wait_s) - gone) / left

    def by_deviations(self, deviations: float) -> float:
        """The age that is so many standard deviations from the median."""
        return self.median_s * math.exp(self.spread * deviations)

    def is_overdue(self, age_s: float) -> bool:
        """Whether hardly any takes longer."""
        return self._deviations(age_s) > STRAGGLER_FROM

    def _since_ready_s(self, age_s: float) -> float:
        """For how long one of unknown age would have been ready at *age_s*, by expectation."""
        if age_s < _MOMENT_S:
            return 0.0
        deviations = self._deviations(age_s)
        mean_s = self.median_s * math.exp(self.spread**2 / 2)
        return age_s * _below(deviations) - mean_s * _below(deviations - self.spread)

    def _deviations(self, age_s: float) -> float:
        if age_s < _MOMENT_S:
            return -math.inf
        return math.log(age_s / self.median_s) / self.spread


def _below(deviations: float) -> float:
    return math.erfc(-deviations / _ROOT_2) / 2


class Experience:
    """
    What looks have seen of one kind of video.

    Attributes:
        samples: Videos that were seen to become ready.
        followed: Videos that somebody looks or looked at.
    """

    def __init__(self) -> None:
        """Nothing yet."""
        self.samples = 0
        self.followed = 0
        self._seconds = [0.0] * (_STEPS + 1)
        self._ready = [0.0] * (_STEPS + 1)
        self._weight = 1.0
        self._promises = [_Promise() for _ in range(_PARTS)]
        self._told: Duration | None = None
        self._told_ready: list[float] | None = None  # by the end of each step, as was told
        self._guess: Guess | None = None
        self._unread = math.inf  # so much was seen since the last guess

    def saw_running(self, since_s: float, until_s: float) -> None:
        """A video was seen not to be ready, from the age *since_s* to *until_s*."""
        self._unread += 1
        number = _step_of(since_s)
        while since_s < until_s:
            end_s = min(_EDGES_S[number + 1], until_s)
            self._seconds[number] += self._weight * (end_s - since_s)
            since_s, number = end_s, number + 1

    def saw_ready(self, counted_s: float, since_s: float, until_s: float) -> None:
        """
        A video that was not ready at the age *since_s* was so at *until_s*.

        Args:
            counted_s: Until when it was told of as running.
        """
        at_s = max((since_s + until_s) / 2, until_s * BEFORE_FIRST_LOOK)
        self.saw_running(counted_s, at_s)
        self._ready[_step_of(at_s)] += self._weight
        self.samples += 1
        # The new count more, in place of the old ones less: that touches one number.
        self._weight *= 2 ** (1 / HALF_AFTER)
        if self._weight > _LIMIT:
            self._seconds = [each / _LIMIT for each in self._seconds]
            self._ready = [each / _LIMIT for each in self._ready]
            self._weight /= _LIMIT

    def guess(self, told: Duration | None) -> Guess | None:
        """
        When such a video will be ready; None if too little is known.

        Args:
            told: What all workers learnt together.
        """
        if self._unread >= GUESS_AFTER or told is not self._told:
            if told is not self._told:
                self._told, self._told_ready = told, _shares(told)
            self._unread, self._guess = 0, self._reckoned()
        return self._guess

    def promise(self, age_s: float, percent: int) -> Guess | None:
        """
        When a video will be ready of which *percent* is done, if such words have been kept.

        Args:
            percent: `MIN_PERCENT` to 99.
        """
        promise = self._promises[_part_of(percent)]
        if promise.samples < ENOUGH_SAMPLES:
            return None
        usual = math.inf if self._guess is None else self._guess.spread / WORTH_HEEDING
        if promise.spread > min(usual, LOOSE_SPREAD):
            return None
        median_s = _promised_s(age_s, percent) * math.exp(promise.mean)
        return Guess(median_s=median_s, spread=max(promise.spread, LEAST_PROMISE))

    def keeps_promises(self) -> bool:
        """Whether what is said of a video that is half done tells when it will be ready."""
        return self.promise(1.0, 50) is not None

    def kept(self, part: int, promised_s: float, since_s: float, until_s: float) -> None:
        """A video for which *promised_s* was said became ready between two looks."""
        if until_s - since_s > CLOSELY * until_s:
            return  # found where it was looked for: that proves nothing
        self._promises[part].learn(math.log(since_s / promised_s), math.log(until_s / promised_s))

    def _reckoned(self) -> Guess | None:
        if self._told_ready is None and self.samples < ENOUGH_SAMPLES:
            return None
        ages_s = self._ages_s((0.1, 0.5, 0.9))
        if len(ages_s) < 3:
            return None
        quick_s, median_s, slow_s = ages_s
        spread = max(math.log(slow_s / quick_s) / _P10_TO_P90, LEAST_SPREAD)
        return Guess(median_s=median_s, spread=spread)

    def _ages_s(self, shares: tuple[float, ...]) -> list[float]:
        """By which age these *shares* are ready, as far as that was seen."""
        found: list[float] = []
        wanted = [-math.log(1 - share) for share in shares]
        weight = self._weight * PRIOR_VIDEOS
        gone, told_before = 0.0, 0.0  # of the chance, as sums of hazards
        last_s = 0.0
        for number in range(_STEPS):
            begin_s, end_s = _EDGES_S[number], _EDGES_S[number + 1]
            ready, seconds = self._ready[number], self._seconds[number]
            if self._told_ready is not None:
                told = self._told_ready[number]
                ready += weight * (told - told_before)
                seconds += weight * (end_s - begin_s) * (1 - (told + told_before) / 2)
                told_before = told
            if ready <= 0 or seconds <= 0:
                continue
            chance, last_s = ready / seconds * (end_s - begin_s), end_s
            while len(found) < len(wanted) and gone + chance >= wanted[len(found)]:
                part = (wanted[len(found)] - gone) / chance
                found.append(begin_s + part * (end_s - begin_s))
            gone += chance
            if len(found) == len(wanted):
                break
        if len(found) == len(wanted) - 1:
            # Where all take the same time nobody is seen at a later age: the slow ones end there.
            found.append(last_s)
        return found


def _shares(told: Duration | None) -> list[float] | None:
    """How many are ready by the end of each step; None if nobody knows."""
    prior = None if told is None else guess_of(told)
    return None if prior is None else [prior.ready_by(end_s) for end_s in _EDGES_S[1:]]


@dataclass(slots=True)
class _Promise:
    """
    How what a provider says of progress is kept: the logarithm of the true time over the promised.

    It is only seen to lie between two looks, so what is averaged is where it would lie in there by
    all that was seen before.
    """

    samples: int = 0
    mean: float = 0.0
    variance: float = 0.015

    @property
    def spread(self) -> float:
        return math.sqrt(self.variance)

    def learn(self, low: float, high: float) -> None:
        mean, variance = _within(self.mean, self.spread, low, high)
        self.samples += 1
        share = max(1 / (self.samples + 5), 1 / HALF_AFTER)
        self.variance += share * (variance + (mean - self.mean) ** 2 - self.variance)
        self.mean += share * (mean - self.mean)


def _within(mean: float, spread: float, low: float, high: float) -> tuple[float, float]:
    """Mean and variance of what is normal, and known to lie between *low* and *high*."""
    least, most = (low - mean) / spread, (high - mean) / spread
    chance = _below(most) - _below(least)
    if chance < 1e-6:  # by the numbers only
        return (low + high) / 2, (high - low) ** 2 / 12
    at_least, at_most = _density(least), _density(most)
    shift = (at_least - at_most) / chance
    narrowing = 1 + (least * at_least - most * at_most) / chance - shift**2
    return mean + spread * shift, spread**2 * max(narrowing, 0.0)


class Trail:
    """What was seen of one video, and what that says about when it will be ready."""

    __slots__ = (
        "_counted_s",
        "_experience",
        "_heeds",
        "_is_over",
        "_promise",
        "_promised_s",
        "_seen_s",
    )

    def __init__(self, experience: Experience, seen_s: float | None = 0.0) -> None:
        """
        Follow a video of the kind of *experience*.

        Args:
            seen_s: The age at which it is known not to be ready; None if nobody knows.
        """
        self._experience = experience
        self._seen_s = self._counted_s = seen_s
        # The first and the last of each part.
        self._promised_s: dict[int, tuple[float, float]] = {}
        self._promise: Guess | None = None
        self._is_over = False
        experience.followed += 1
        self._heeds = experience.followed % ONE_DOUBTED_OF > 0

    def saw_running(self, age_s: float, percent: int | None) -> None:
        """It was not ready at *age_s*, and so much was done."""
        age_s = max(age_s, _FIRST_S)  # clocks differ
        if self._counted_s is None:
            self._counted_s = age_s
        elif age_s > self._counted_s * (1 + _STEP):
            self._experience.saw_running(self._counted_s, age_s)
            self._counted_s = age_s
            if percent is not None and MIN_PERCENT <= percent < 100:
                part, promised_s = _part_of(percent), _promised_s(age_s, percent)
                first_s, _ = self._promised_s.get(part, (promised_s, 0.0))
                self._promised_s[part] = (first_s, promised_s)
                self._promise = self._experience.promise(age_s, percent) if self._heeds else None
        self._seen_s = age_s

    def saw_ready(self, age_s: float) -> None:
        """It was ready at *age_s*."""
        age_s = max(age_s, _FIRST_S)
        if self._is_over or self._seen_s is None or self._counted_s is None:
            return
        self._is_over = True
        self._experience.saw_ready(self._counted_s, self._seen_s, age_s)
        if 0 < self._seen_s < age_s:
            for part, each_s in self._promised_s.items():
                for promised_s in each_s:
                    self._experience.kept(part, promised_s, self._seen_s, age_s)

    def guess(self, told: Duration | None) -> Guess | None:
        """When it will be ready: as the provider says if that is worth anything, else as usual."""
        usual = self._experience.guess(told)
        return self._promise or usual

    def ready_per_s(self, age_s: float, interval_s: float, told: Duration | None) -> float:
        """The chance a second that it becomes ready; of an unknown kind, so that lists are few."""
        guess = self.guess(told)
        if guess is None:
            return 1 / (UNKNOWN_INTERVALS * interval_s)
        return guess.ready_per_s(age_s)

    def look_in_s(
        self, age_s: float, interval_s: float, told: Duration | None, jitter: float
    ) -> float:
        """
        How long to wait before its next look; see `look_in_s`.

        Args:
            jitter: 0 to 1, else a thousand that began together would be looked at together.
        """
        usual = self._experience.guess(told)
        if self._promise is not None:
            # One that stands still promises ever more, so it is not believed beyond the usual time.
            longest_s = 0.0 if usual is None else usual.by_deviations(LATEST) - age_s
            wait_s = look_in_s(age_s, interval_s, self._promise)
            return max(min(wait_s, max(longest_s, LONGEST_LOOK_S)), interval_s)
        wait_s = look_in_s(age_s, interval_s, usual)
        if usual is not None and self._heeds and self._experience.keeps_promises():
            # Half way through it says when it will be ready, and hardly any is ready before.
            wait_s = min(wait_s, usual.by_deviations(-BEFORE_ANY) - age_s)
        return max(wait_s * (0.95 + jitter / 10), interval_s)


def _part_of(percent: int) -> int:
    return int(percent) * _PARTS // 100  # a plug-in may tell of halves


def _promised_s(age_s: float, percent: int) -> float:
    """When it is ready if it goes on like this; percent are cut to whole ones."""
    return age_s * 100 / (percent + 0.5)


def _density(deviations: float) -> float:
    return math.exp(-(deviations**2) / 2) / _ROOT_2_PI


def _step_of(age_s: float) -> int:
    if age_s < _FIRST_S:
        return 0
    return min(1 + int(math.log(age_s / _FIRST_S) / _STEP), _STEPS)


def guess_of(told: Duration) -> Guess | None:
    """When a video is ready whose kind takes so long; None if that was learnt from too few."""
    if told.samples < ENOUGH_SAMPLES or told.generated_p10 <= 0:
        return None
    spread = math.log(told.generated_p90 / told.generated_p10) / _P10_TO_P90
    return Guess(median_s=told.generated_p50, spread=max(spread, LEAST_SPREAD))


def look_in_s(gone_s: float, interval_s: float, guess: Guess | None) -> float:
    """
    How long to wait before the next look at a generation that began *gone_s* seconds ago.

    Short of the quickest tenth hardly any is ready, around the median a look is worth it soon, and
    a straggler may take any time. Never less than *interval_s*, and just that as long as nobody
    knows how long such videos take.
    """
    if guess is None:
        wait_s = interval_s
    elif (surely_s := _surely_s(guess, interval_s)) is not None:
        wait_s = surely_s - gone_s
    elif guess.late_s(gone_s, interval_s) >= WORTH_A_LOOK_S:
        wait_s = interval_s
    else:
        wait_s = _wait_s(gone_s, guess)
    if guess is not None and guess.is_overdue(gone_s):
        wait_s = min(gone_s * STRAGGLER_SHARE, LONGEST_LOOK_S)
    return max(wait_s, interval_s)


def _surely_s(guess: Guess, interval_s: float) -> float | None:
    """
    The age at which a video is about to be ready that hardly varies; None if it does.

    Whoever looks a little too early asks once more, and waits for a whole interval. So it is worth
    waiting for as long as the chance a second to become ready is more than one in that.
    """
    deviation_s = guess.spread * guess.median_s
    gain = (interval_s + WORTH_A_LOOK_S) / (deviation_s * _ROOT_2_PI)
    return guess.median_s + deviation_s * math.sqrt(2 * math.log(gain)) if gain > 1 else None


def _wait_s(gone_s: float, guess: Guess) -> float:
    """When a look is worth it, to a tenth of a second."""
    shortest_s, longest_s = 0.0, max(guess.median_s - gone_s, LONGEST_LOOK_S)
    while longest_s - shortest_s > 0.1:
        wait_s = (shortest_s + longest_s) / 2
        if guess.late_s(gone_s, wait_s) < WORTH_A_LOOK_S:
            shortest_s = wait_s
        else:
            longest_s = wait_s
    return longest_s


def list_in_s(ready_per_s: float, pages: int, interval_s: float) -> float:
    """
    How long to wait between two lists of so many *pages*, of videos that become ready so often.

    One page for each video that becomes ready; with few of them a list in each interval, which is
    what one video alone would ask; with many of them one every now and then.
    """
    shortest_s = max(interval_s * LIST_SHARE, SECONDS_PER_PAGE * pages)
    wished_s = pages / ready_per_s if ready_per_s > 0 else math.inf
    return min(max(wished_s, shortest_s), interval_s)
