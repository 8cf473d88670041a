"""
A provider that does not answer is left alone for a while: submits pause, polls and transfers go on.

    closed ──5 failures in a row──> open ──the pause is over──> half-open: one probe at a time
       ^                             ^                             │          │
       └────────── any answer ───────┼────────────────────────────┘          │
                                     └──────────── the probe fails ───────────┘
"""

from dataclasses import dataclass

FAILURES_TO_OPEN = 5
FIRST_PAUSE_S = 15.0
LONGEST_PAUSE_S = 300.0
PROBE_S = 30.0  # after so long without a word from the probe another may try


@dataclass(slots=True)
class _State:
    failures: int = 0
    pause_s: float = 0.0
    open_until: float = 0.0
    probing_until: float = 0.0


class Breakers:
    """One breaker for each provider and credential, of this process; times are the loop's."""

    def __init__(self) -> None:
        """All closed."""
        self._states: dict[tuple[str, str], _State] = {}

    def wait_s(self, provider: str, credential_id: str, now: float) -> float:
        """
        0 lets a submit through; else how many seconds to wait before asking again.

        After a pause the first one through is the probe, and the others wait for its outcome.
        """
        state = self._states.get((provider, credential_id))
        if state is None or not state.pause_s:
            return 0.0
        if now < state.open_until:
            return state.open_until - now
        if now < state.probing_until:
            return state.probing_until - now
        state.probing_until = now + PROBE_S
        return 0.0

    def answered(self, provider: str, credential_id: str) -> bool:
        """Take in any answer, also a refusal; True if the breaker was open."""
        state = self._states.pop((provider, credential_id), None)
        return state is not None and state.pause_s > 0

    def failed(self, provider: str, credential_id: str, now: float) -> float:
        """Take in that no answer came; the seconds of the pause that begins now, or 0."""
        state = self._states.setdefault((provider, credential_id), _State())
        state.failures += 1
        if state.failures < FAILURES_TO_OPEN:
            return 0.0
        state.pause_s = min(state.pause_s * 2 or FIRST_PAUSE_S, LONGEST_PAUSE_S)
        state.open_until = now + state.pause_s
        state.probing_until = 0.0
        return state.pause_s

    def is_open(self, provider: str, credential_id: str) -> bool:
        """Whether submits pause."""
        state = self._states.get((provider, credential_id))
        return state is not None and state.pause_s > 0
