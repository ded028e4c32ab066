"""Signals to a server's processes, and the guard that ends a server whose owner is gone.

Runs also as a program of its own, so it imports nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

STOP_SECONDS = 20.0
POLL_SECONDS = 0.005


def pid_file(directory: Path) -> Path:
    return directory / "guarded.pid"


def thread_states(pid: int) -> list[str]:
    """The state of each thread; none when the process is gone."""
    states = []
    for entry in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):
            states.append(_fields(entry)[0])
    return states


def has_ended(pid: int) -> bool:
    """Whether the process is gone or waits for its parent; its main thread may end before the others."""
    return thread_states(pid) in ([], ["Z"])


def is_suspended(pid: int) -> bool:
    return set(thread_states(pid)) <= {"T", "Z"}


def family(pid: int) -> list[int]:
    """The process and its children; PostgreSQL's backends have left its process group."""
    members = [pid]
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(_fields(entry)[1]) == pid:
                members.append(int(entry.parent.name))
    return members


def session(leader: int) -> list[int]:
    """Those that are left of the session that this process began: itself, children, and their orphans."""
    members = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(_fields(entry)[3]) == leader:
                members.append(int(entry.parent.name))
    return [member for member in members if not has_ended(member)]


def _fields(stat: Path) -> list[str]:
    """What /proc tells of a process or thread from its state on; a name with any character precedes it."""
    return stat.read_text().rpartition(")")[2].split()


def send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def poll(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def suspend(pid: int) -> list[int]:
    """Stop the process before its children are listed, so that none can be added, and return them all."""
    stopped: list[int] = []
    send(pid, signal.SIGSTOP)
    poll(lambda: is_suspended(pid), STOP_SECONDS)
    for member in family(pid)[1:]:
        send(member, signal.SIGSTOP)
        stopped.append(member)
    poll(lambda: all(map(is_suspended, stopped)), STOP_SECONDS)
    return [pid, *stopped]


def kill(pid: int) -> None:
    members = suspend(pid)
    for member in members:
        send(member, signal.SIGKILL)
    poll(lambda: all(map(has_ended, members)), STOP_SECONDS)


def end(pid: int, stop_signal: int) -> None:
    """Shut a server down cleanly, suspended or not, and kill it if that takes too long."""
    for member in family(pid):
        send(member, signal.SIGCONT)
    send(pid, stop_signal)
    if not poll(lambda: has_ended(pid), STOP_SECONDS):
        kill(pid)


def stop(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Ask a child of ours to end, and kill it with its own children if that takes too long."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        kill(process.pid)
        process.wait()


def start_guard(directory: Path) -> subprocess.Popen[bytes]:
    """A process that ends the server in the directory and removes it when its standard input ends."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", os.path.abspath(__file__), str(directory)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


def _watch(directory: Path) -> None:
    """Wait for the end of the process that owns the server, then leave nothing of the server behind.

    The end of the standard input tells, since only the owner holds the other side. PR_SET_PDEATHSIG would not
    do: it fires when the thread that started the server ends.
    """
    sys.stdin.buffer.read()
    with contextlib.suppress(FileNotFoundError):
        pid, stop_signal = (int(word) for word in pid_file(directory).read_text().split())
        end(pid, stop_signal)
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    _watch(Path(sys.argv[1]))
