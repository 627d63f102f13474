"""Processes that this one starts: each dies with it, is stopped with all that it started, and is found again after a crash.

A run is one server's life. Its id stands in the environment of every process of the run (`SHITU_RUN_ID`) and names its record, a
file that the living server keeps locked: a record that can be locked belongs to a crashed run, and what is left of it is swept.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

import psutil

from shitu_server.errors import ConfigurationError

RUN_ID_VARIABLE: Final = "SHITU_RUN_ID"
_RECORD_SUFFIX: Final = ".run"
_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - not a temporary folder: where Linux keeps POSIX shared memory
_LAUNCHER: Final = Path(__file__).with_name("launcher.py")
_GROUP_GONE_TIMEOUT_S: Final = 5.0
_POLL_S: Final = 0.02

_log = logging.getLogger(__name__)


@dataclass
class Run:
    """One server's life; holds the lock on its record until `close`."""

    id: str
    _record: Path = field(repr=False)
    _lock: IO[str] = field(repr=False)

    @classmethod
    def begin(cls, directory: Path) -> Run:
        """Sweep what crashed runs left behind, then start a record for this one.

        Args:
            directory: where the records of all runs of this user are; is created.

        Raises:
            ConfigurationError: it cannot be written.
        """
        run_id = uuid.uuid4().hex[:12]
        path = directory / f"{run_id}{_RECORD_SUFFIX}"
        draft = path.with_suffix(".new")
        try:
            directory.mkdir(parents=True, exist_ok=True)
            sweep(directory)
            # Locked before it gets its name, so that no other server's sweep can take it for a left-over.
            lock = draft.open("w", encoding="utf-8")
            fcntl.flock(lock, fcntl.LOCK_EX)
            draft.rename(path)
        except OSError as error:
            raise ConfigurationError(
                f"cannot keep a record of this run in {directory} ({error}); choose another"
            ) from error
        return cls(run_id, path, lock)

    @property
    def shared_memory_prefix(self) -> str:
        """Start of the names of all shared memory of this run, in /dev/shm."""
        return _shared_memory_prefix(self.id)

    def file(self, name: str) -> Path:
        """Return the path of a file that lasts as long as the run, beside its record: what cleans up /tmp does not come there."""
        return self._record.with_name(f"{self.id}.{name}")

    def close(self) -> None:
        """Remove the shared memory, the record and the files; call it when all processes of the run are stopped."""
        remove_shared_memory(self.shared_memory_prefix)
        _remove_files(self._record)
        self._lock.close()


@dataclass(frozen=True)
class Command:
    """What to start."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    log_path: Path | None = None
    """stdout and stderr are appended to it; they are this process' own where None."""


class Child:
    """A process with a group of its own, killed by the kernel when the thread that started it dies.

    Start it from the main thread: the parent-death signal follows the thread, not the process.
    """

    def __init__(self, command: Command, run: Run) -> None:
        arguments = [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid()), *command.arguments]
        with _log_of(command) as log, _hang_up_waits():
            self._process = subprocess.Popen(
                arguments,
                env={**command.environment, RUN_ID_VARIABLE: run.id},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log and subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Process id, and id of the group."""
        return self._process.pid

    def exit_code(self) -> int | None:
        """Return the exit code, negative for a signal; None while the process runs."""
        return self._process.poll()

    def terminate(self) -> None:
        """Send SIGTERM to the process, not to its group: it stops its own children."""
        if self.exit_code() is None:
            self._process.terminate()

    def hang_up(self) -> None:
        """Send SIGHUP to the process."""
        if self.exit_code() is None:
            self._process.send_signal(signal.SIGHUP)

    def wait(self, timeout_s: float) -> int | None:
        """Block until the process ends, and return its exit code; None where it still runs after `timeout_s`."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def kill_group(self) -> None:
        """SIGKILL whatever lives in the group, and wait until it is gone."""
        deadline = time.monotonic() + _GROUP_GONE_TIMEOUT_S
        # While its last threads end, a process looks dead but cannot be reaped yet.
        while _kill_group(self.pid, unreaped=self._process.poll() is None) and time.monotonic() < deadline:
            time.sleep(_POLL_S)


@contextmanager
def _hang_up_waits() -> Iterator[None]:
    """Hold SIGHUP back; a child that is started meanwhile holds it back too, until the launcher has it ignored."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _log_of(command: Command) -> AbstractContextManager[IO[bytes] | None]:
    if command.log_path is None:
        return nullcontext()
    command.log_path.parent.mkdir(parents=True, exist_ok=True)
    return command.log_path.open("ab")


def sweep(directory: Path) -> None:
    """Kill the processes and remove the shared memory of every run whose server is gone."""
    for record in directory.glob(f"*{_RECORD_SUFFIX}"):
        try:
            with record.open("r+", encoding="utf-8") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _sweep_run(record.stem)
                _remove_files(record)
        except (BlockingIOError, FileNotFoundError):  # its server lives, or another server swept it
            continue


def remove_shared_memory(prefix: str) -> None:
    """Remove the shared memory whose name starts with the prefix."""
    for path in _SHARED_MEMORY.glob(f"{prefix}*"):
        path.unlink(missing_ok=True)


def _remove_files(record: Path) -> None:
    for path in record.parent.glob(f"{record.stem}.*"):
        path.unlink(missing_ok=True)


def _sweep_run(run_id: str) -> None:
    deadline = time.monotonic() + _GROUP_GONE_TIMEOUT_S
    while (left := _alive_in_run(run_id)) and time.monotonic() < deadline:
        for process in left:
            _log.warning("killing process %d, left over from run %s", process.pid, run_id)
            with suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(_POLL_S)
    remove_shared_memory(_shared_memory_prefix(run_id))


def _alive_in_run(run_id: str) -> list[psutil.Process]:
    """Return the living processes of a run; a dead one that nobody has reaped has no environment."""
    return [process for process in psutil.process_iter() if _run_id_of(process) == run_id]


def _run_id_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(RUN_ID_VARIABLE)
    except psutil.Error:  # another user's, or gone
        return None


def _shared_memory_prefix(run_id: str) -> str:
    return f"shitu-{run_id}-"


def _kill_group(group: int, *, unreaped: bool) -> bool:
    """SIGKILL a group; returns whether its first process was not reaped or another was alive."""
    alive = unreaped or any(_lives_in(process, group) for process in psutil.process_iter())
    if alive:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
    return alive


def _lives_in(process: psutil.Process, group: int) -> bool:
    try:
        return os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.Error):
        return False
