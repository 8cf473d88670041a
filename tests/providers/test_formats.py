"""Every provider of ours keeps what the conformance kit says."""

from vidgen.testing.provider_conformance import *  # noqa: F403  the sentences; `wire` is in conftest.py
