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

from shitu_server.signals import reload_signal

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


async def test_it_lets_a_process_look_for_new_models():
    wanted, stopping = asyncio.Event(), asyncio.Event()
    with reload_signal(wanted, stopping):
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.wait_for(wanted.wait(), 5)
        assert not stopping.is_set()
    os.kill(os.getpid(), signal.SIGHUP)  # is ignored, while the process ends
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def test_a_terminal_that_closes_stops_a_process(tmp_path):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    while not (tmp_path / "ready").exists():
        assert process.poll() is None
        time.sleep(0.02)
    os.close(ours)
    assert process.wait(15) == 0
    assert (tmp_path / "told").read_text() == "stopping"
