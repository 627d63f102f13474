"""SIGHUP means new models, or that the terminal is gone."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

from shitu_server.signals import _TERMINAL_LOST_S, reload_signal

SCRIPT = textwrap.dedent("""
    import asyncio, fcntl, sys, termios
    from pathlib import Path
    from shitu_server.signals import reload_signal

    async def main():
        wanted, stopping = asyncio.Event(), asyncio.Event()
        with reload_signal(wanted, stopping):
            Path(sys.argv[1], "ready").touch()
            tasks = {asyncio.create_task(event.wait(), name=name) for name, event in (("wanted", wanted), ("stopping", stopping))}
            done, _ = await asyncio.wait(tasks, timeout=10, return_when=asyncio.FIRST_COMPLETED)
            Path(sys.argv[1], "told").write_text(",".join(task.get_name() for task in done))

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    asyncio.run(main())
""")


class InTerminal:
    """A process that waits for SIGHUP in a terminal of its own."""

    def __init__(self, folder: Path, *, hang_up: str = "SIG_DFL", leads: bool = True) -> None:
        self.folder = folder
        # Where it does not lead the session, another process does, which only the terminal's end or its own stops.
        script = SCRIPT if leads else LEADER
        self.ours, theirs = pty.openpty()
        code = f"import signal; signal.signal(signal.SIGHUP, signal.{hang_up})\n{script}"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, str(folder)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.wait_for("ready")

    def close(self) -> None:
        os.close(self.ours)

    def wait_for(self, name: str) -> str:
        end_s = time.monotonic() + 15
        while not (self.folder / name).exists() or (name == "told" and not (self.folder / name).read_text()):
            assert time.monotonic() < end_s
            time.sleep(0.02)
        return (self.folder / name).read_text()


LEADER = textwrap.dedent(f"""
    import fcntl, os, subprocess, sys, termios, time
    from pathlib import Path
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    code = {SCRIPT.replace("fcntl.ioctl(0, termios.TIOCSCTTY, 0)", "")!r}
    # A group of its own, in the background: the terminal's end is told to the foreground alone.
    child = subprocess.Popen([sys.executable, "-c", code, sys.argv[1]], preexec_fn=os.setpgrp)
    Path(sys.argv[1], "pid").write_text(str(child.pid))
    time.sleep(60)
""")


async def test_it_lets_a_process_look_for_new_models():
    wanted, stopping = asyncio.Event(), asyncio.Event()
    with reload_signal(wanted, stopping):
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.wait_for(wanted.wait(), 5)
        assert not stopping.is_set()
    os.kill(os.getpid(), signal.SIGHUP)  # is ignored, while the process ends
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def test_a_terminal_that_closes_stops_a_process(tmp_path):
    server = InTerminal(tmp_path)
    time.sleep(1)
    server.close()
    assert server.wait_for("told") == "stopping"
    assert server.process.wait(15) == 0


def test_nohup_is_heeded(tmp_path):
    server = InTerminal(tmp_path, hang_up="SIG_IGN")
    server.close()
    assert server.wait_for("told") == "wanted"
    assert server.process.wait(15) == 0


def test_who_outlived_the_terminal_looks_for_new_models(tmp_path):
    server = InTerminal(tmp_path, leads=False)
    pid = int((tmp_path / "pid").read_text())
    server.close()
    server.process.wait(15)
    time.sleep(_TERMINAL_LOST_S + 0.5)
    assert not (tmp_path / "told").exists(), "the background is not told of the terminal's end"
    os.kill(pid, signal.SIGHUP)
    assert server.wait_for("told") == "wanted"
