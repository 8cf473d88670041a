"""
Run a program that Linux kills when the process that started it ends, however that one ends.

    python -m vidgen.dev.leash PARENT_PID PROGRAM [ARGUMENT…]

A `preexec_fn` would be shorter, but Python 3.12 warns about it where there are threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Become the program; it keeps the order to end with the parent."""
    parent, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(parent):  # it ended before it could be told
            raise SystemExit(1)
    os.execv(command[0], command)  # noqa: S606  no shell is wanted


if __name__ == "__main__":
    main()
