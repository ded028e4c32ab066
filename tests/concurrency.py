"""Threads, greenlets where gevent has patched threading, forked children, and waiting for what they do."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import importlib
import json
import os
import select
import signal
import sys
import threading
import time
import unittest.mock
from collections.abc import Callable
from typing import Any

PATIENCE = 10.0  # seconds
TRIES = 5
# How often a child hands the GIL over, to a thread of its own, before it is taken for sound.
HANDOVERS = 20


def eventually(condition: Callable[[], Any]) -> None:
    """Wait until it is true; fail when that takes too long."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"still not true after {PATIENCE} s: {condition}"
        time.sleep(0.01)


def in_thread(function: Callable[[], Any]) -> Any:
    """Run in another thread (under gevent: greenlet) to its end; its result, or its exception."""
    return in_threads([function])[0]


def in_threads(functions: list[Callable[[], Any]]) -> list[Any]:
    """Run all at the same time; their results, or the first one's exception."""
    results: list[Any] = [None] * len(functions)
    errors: list[BaseException] = []

    def run(number: int, function: Callable[[], Any]) -> None:
        try:
            results[number] = function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=item) for item in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE * 2)
        assert not thread.is_alive(), "a thread hangs"
    del thread, threads
    # With Python 3.13 a greenlet's storage goes when its hub has run once more.
    time.sleep(0)
    if errors:
        raise errors[0]
    return results


def silent_fork() -> int:
    """A fork that Python isn't told of, as a server written in C makes.

    Such a server has no other threads when it forks. Where one of ours waits for the GIL just then, it does
    in the child's copy of the GIL, too: a child that hangs in the C library for that is ended, another made.
    """
    for _ in range(TRIES):
        pid = _fork_by_c()
        if pid is not None:
            return pid
    raise AssertionError(f"{TRIES} children hang")


def _fork_by_c() -> int | None:
    """As ``os.fork()`` returns it; None where the child hangs."""
    gevent, monkey = sys.modules.get("gevent"), sys.modules.get("gevent.monkey")
    patched = gevent is not None and monkey is not None and monkey.is_module_patched("threading")
    # Who has just started this thread, for example, waits for the GIL: now it goes on.
    _native("time", "sleep")(0.05)
    reading, writing = os.pipe()
    # Not CDLL, which would release the GIL: nobody would have it in the child.
    pid = int(ctypes.PyDLL(None).fork())
    if pid == 0:
        for _ in range(HANDOVERS):
            hand_over()
            os.write(writing, b".")
        os.close(reading)
        os.close(writing)
        if gevent is not None and patched:
            # Such a server sees to that: the parent's loop would be of no use.
            with unittest.mock.patch("sys._current_frames", dict):
                # It looks for frames of threads that such a server doesn't have. Python isn't told that they
                # are gone, and may crash.
                gevent.reinit()
        return 0
    os.close(writing)
    told = b""
    while len(told) < HANDOVERS and select.select([reading], [], [], PATIENCE)[0]:
        more = os.read(reading, HANDOVERS)
        if not more:
            break
        told += more
    os.close(reading)
    if len(told) == HANDOVERS:
        return pid
    end(pid)
    return None


def hand_over() -> None:
    """The GIL to another native thread and back."""
    lock = _native("_thread", "allocate_lock")()
    lock.acquire()
    _native("_thread", "start_new_thread")(lock.release, ())
    lock.acquire()


def _native(module: str, name: str) -> Any:
    """What gevent may have patched."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None:
        return getattr(importlib.import_module(module), name)
    return monkey.get_original(module, name)


def end(pid: int) -> None:
    """Of a child that hangs."""
    os.kill(pid, signal.SIGKILL)
    _reap(pid)


def _reap(pid: int) -> int | None:
    """What it has ended with."""
    # gevent's loop, which isn't told of a silent fork and asks for any child, may have been faster.
    with contextlib.suppress(ChildProcessError):
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return None


def in_child(function: Any, fork: Callable[[], int] | None = None) -> Any:
    """Run in a forked child, which ends without any cleaning up; what it returns."""
    reading, writing = os.pipe()
    pid = (fork or os.fork)()
    if pid == 0:
        signal.alarm(20)
        # What a test prints to stderr is shown when it fails.
        faulthandler.register(signal.SIGUSR1, file=2)
        try:
            result = json.dumps(["ok", function()])
        except BaseException as error:
            result = json.dumps(["error", repr(error)])
        os.write(writing, result.encode())
        os._exit(0)
    os.close(writing)
    # Under gevent a descriptor is closed at the next chance that other greenlets get: here.
    if not select.select([reading], [], [], PATIENCE)[0]:
        # Where is it?
        os.kill(pid, signal.SIGUSR1)
        time.sleep(0.5)
        # It would keep what it has inherited open, the pipe to who waits for this process's output too.
        end(pid)
        raise AssertionError("the child hangs")
    answer = os.read(reading, 65536)
    os.close(reading)
    status = _reap(pid)
    assert answer, f"the child has ended without a word ({status})"
    state, value = json.loads(answer)
    assert state == "ok", value
    return value
