from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from shitu_server.children import RUN_ID_VARIABLE, Child, Command, Run, sweep
from shitu_server.errors import ConfigurationError

SLEEPER = "import time; time.sleep(60)"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEPER!r}])"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"


HEADLESS = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(60,)).start()
print('on', flush=True)
ctypes.CDLL(None).pthread_exit(None)
"""


@pytest.fixture
def run(tmp_path):
    begun = Run.begin(tmp_path / "runs")
    yield begun
    begun.close()


def command(code: str, log: Path | None = None) -> Command:
    return Command([sys.executable, "-c", code], dict(os.environ), log)


def wait_for(condition) -> None:
    end_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_runs_in_a_group_of_its_own_with_the_id_of_the_run(run, tmp_path):
    log = tmp_path / "logs" / "child.log"
    child = Child(command(f"import os; print(os.getpgid(0), os.environ['{RUN_ID_VARIABLE}'])", log), run)
    assert child.wait(10) == 0
    assert log.read_text().split() == [str(child.pid), run.id]


def test_terminate_ends_it(run):
    child = Child(command(SLEEPER), run)
    child.terminate()
    assert child.wait(10) == -15


def test_a_child_that_is_just_starting_survives_being_told_to_reload(run, tmp_path):
    log = tmp_path / "log"
    mask = "import signal; print(signal.pthread_sigmask(signal.SIG_BLOCK, ()), signal.getsignal(signal.SIGHUP))"
    for _ in range(5):
        child = Child(command(mask, log), run)
        child.hang_up()
        assert child.wait(10) == 0
    assert log.read_text().count("set() 1\n") + log.read_text().count("set() Handlers.SIG_IGN\n") == 5
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()


def test_a_group_is_killed_with_grandchildren_and_what_ignores_sigterm(run, tmp_path):
    log = tmp_path / "log"
    family, stubborn = Child(command(PARENT), run), Child(command(STUBBORN, log), run)
    wait_for(lambda: len(psutil.Process(family.pid).children()) == 1 and log.read_text() == "on\n")
    grandchild = psutil.Process(family.pid).children()[0].pid
    stubborn.terminate()
    assert stubborn.wait(0.2) is None
    family.kill_group()
    stubborn.kill_group()
    assert not is_alive(grandchild)
    assert (family.exit_code(), stubborn.exit_code()) == (-9, -9)


def test_a_program_that_is_not_there_ends_with_an_error(run, tmp_path):
    log = tmp_path / "log"
    child = Child(Command(["/nowhere/program"], dict(os.environ), log), run)
    assert child.wait(10) == 1
    assert "/nowhere/program: " in log.read_text()


def test_a_child_dies_with_its_parent(tmp_path):
    code = f"""
import os, sys, time
from pathlib import Path
from shitu_server.children import Child, Command, Run
run = Run.begin(Path({str(tmp_path)!r}))
child = Child(Command([sys.executable, "-c", {SLEEPER!r}], dict(os.environ)), run)
print(child.pid, flush=True)
time.sleep(60)
"""
    log = tmp_path / "log"
    outer = Run.begin(tmp_path / "outer")
    parent = Child(command(code, log), outer)
    wait_for(lambda: log.exists() and log.read_text().endswith("\n"))
    pid = int(log.read_text())
    assert is_alive(pid)
    os.kill(parent.pid, 9)  # the parent alone: the child has a group of its own
    wait_for(lambda: not is_alive(pid))
    parent.kill_group()
    outer.close()


def test_sweep_kills_what_crashed_runs_left_and_nothing_else(run, tmp_path):
    crashed = Run.begin(tmp_path / "runs")
    left, mine = Child(command(SLEEPER), crashed), Child(command(SLEEPER), run)
    memory = Path("/dev/shm") / f"{crashed.shared_memory_prefix}0"
    memory.write_text("left")
    for begun in (crashed, run):
        begun.file("served.json").write_text("{}")
    crashed._lock.close()  # as the kernel does when a process dies
    sweep(tmp_path / "runs")
    assert left.exit_code() == -9
    assert mine.exit_code() is None
    assert not memory.exists()
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {f"{run.id}.run", f"{run.id}.served.json"}
    mine.kill_group()


def test_a_closed_run_leaves_no_record(tmp_path):
    run = Run.begin(tmp_path)
    run.file("served.json").write_text("{}")
    run.close()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"cannot keep a record of this run in .*file"):
        Run.begin(tmp_path / "file")


def test_a_process_whose_first_thread_has_ended_looks_dead_but_is_killed_and_reaped(run, tmp_path):
    log = tmp_path / "child.log"
    child = Child(command(HEADLESS, log), run)
    wait_for(lambda: log.exists() and "on" in log.read_text())
    wait_for(lambda: not is_alive(child.pid))
    child.kill_group()
    assert child.exit_code() == -signal.SIGKILL
