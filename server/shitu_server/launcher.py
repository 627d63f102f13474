"""Starts a command that dies with the process that asked for it. Run as a script by `children.py`, never imported.

A `preexec_fn` would do the same inside a fork of a process with threads and grpc in it, where it may deadlock; this script is
a fresh process that becomes the command.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
"""prctl(2)"""


def main() -> None:
    """Arguments: process id of the caller, then the command."""
    caller, command = int(sys.argv[1]), sys.argv[2:]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    # Ignored signals stay ignored in the command: until it handles SIGHUP itself, being told to reload must not end it.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # the caller held it back until here
    if os.getppid() != caller:  # it died before the line above
        sys.exit(1)
    try:
        os.execvp(command[0], command)  # noqa: S606 - that is what this script is for
    except OSError as error:
        sys.exit(f"{command[0]}: {error}")


if __name__ == "__main__":
    main()
