"""A process of ours that is started again when it dies."""

from __future__ import annotations

import logging
import time
from typing import Final

from shitu_server.children import Child, Command, Run
from shitu_server.errors import ConfigurationError

_log = logging.getLogger(__name__)

EXIT_CONFIGURATION: Final = 2
"""Exit status of a process that cannot start with its settings or files; starting it again would not help."""

_FIRST_DELAY_S: Final = 0.1
_MAX_DELAY_S: Final = 5.0
_STABLE_AFTER_S: Final = 10.0
"""A process that lived this long starts again after the shortest delay."""


class KeptProcess:
    """Belongs to the main thread, as the children do."""

    def __init__(self, name: str, command: Command, run: Run) -> None:
        self.name = name
        self._command = command
        self._run = run
        self._child: Child | None = None
        self._started_s = 0.0
        self._restart_at_s = 0.0
        self._delay_s = _FIRST_DELAY_S

    def start(self) -> None:
        """Start the process."""
        self._child = Child(self._command, self._run)
        self._started_s = time.monotonic()

    def tend(self) -> None:
        """Start the process again if it has died: at once if it had lived long, later each time if it had not.

        Raises:
            ConfigurationError: it said that it cannot start this way.
        """
        if self._child is not None and self._child.exit_code() is not None:
            self._bury(self._child)
        elif self._child is None and time.monotonic() >= self._restart_at_s:
            self.start()

    def _bury(self, child: Child) -> None:
        code = child.exit_code()
        child.kill_group()
        self._child = None
        if code == EXIT_CONFIGURATION:
            raise ConfigurationError(f"the {self.name} process cannot start; its message is above")
        now_s = time.monotonic()
        stable = now_s - self._started_s >= _STABLE_AFTER_S
        self._delay_s = _FIRST_DELAY_S if stable else min(self._delay_s * 2, _MAX_DELAY_S)
        self._restart_at_s = now_s + self._delay_s
        _log.warning("the %s process ended with status %s; starting it again in %.1f s", self.name, code, self._delay_s)

    def reload(self) -> None:
        """Tell the process to read again what it serves; one that is starting reads it anyway."""
        if self._child is not None:
            self._child.hang_up()

    def terminate(self) -> None:
        """Ask the process to end; `wait` follows."""
        if self._child is not None:
            self._child.terminate()

    def wait(self, timeout_s: float) -> None:
        """Wait for the end, then kill what is left."""
        if self._child is None:
            return
        if self._child.wait(timeout_s) is None:
            _log.warning("the %s process did not end within %.0f s; killing it", self.name, timeout_s)
        self._child.kill_group()
        self._child = None
