"""So many requests a minute for each who asks; what is remembered of them has a bound."""

from collections import OrderedDict

WINDOW_S = 60.0
MAX_REMEMBERED = 10_000


class Quota:
    """
    Lets each caller make a minute's requests at once, and then as many as the minute gives back.

    One number per caller is kept: until when what was asked for is spread out at the allowed pace.
    """

    def __init__(self, limit_per_min: int) -> None:
        """Know nobody yet; 0 is no limit."""
        self._interval_s = WINDOW_S / limit_per_min if limit_per_min else 0.0
        self._spread_until: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        """How many callers are remembered."""
        return len(self._spread_until)

    def wait_s(self, caller: str, now: float) -> float:
        """
        Count a request of *caller* at *now*: 0 if it may go on, else when to come again.

        A refused one is not counted. Who is forgotten for a newer one begins anew.
        """
        if not self._interval_s:
            return 0.0
        until = max(self._spread_until.pop(caller, now), now)
        wait_s = until + self._interval_s - now - WINDOW_S
        if wait_s <= 1e-9:  # the sum of many small numbers is no whole minute
            until += self._interval_s
        self._spread_until[caller] = until
        if len(self._spread_until) > MAX_REMEMBERED:
            self._spread_until.popitem(last=False)
        return max(wait_s, 0.0) if wait_s > 1e-9 else 0.0
