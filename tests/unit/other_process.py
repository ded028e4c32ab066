"""A forked process that does what it is told, with what it has made itself, until it is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

T = TypeVar("T")
# Seconds for an answer.
PATIENCE = 20.0


class OtherProcess(Generic[T]):
    """``make``: called there; ``do`` calls a function with what it has made, and gives what that returns."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._ours, theirs = multiprocessing.Pipe()
        for end in (self._ours, theirs):
            # gevent's sockets don't.
            os.set_blocking(end.fileno(), True)
        self.pid = os.fork()
        if not self.pid:
            self._serve(theirs, make)
        theirs.close()
        self.is_alive = True
        # That it is made.
        self.result()

    def do(self, name: str, *arguments: Any) -> Any:
        """Call this method of it."""
        self.begin(name, *arguments)
        return self.result()

    def begin(self, name: str, *arguments: Any) -> None:
        """Call it, and don't wait."""
        self._ours.send((name, arguments))

    @property
    def is_done(self) -> bool:
        return self._ours.poll()

    def result(self) -> Any:
        assert self._ours.poll(PATIENCE), "no answer"
        result, trouble = self._ours.recv()
        assert trouble is None, trouble
        return result

    def kill(self) -> None:
        if self.is_alive:
            self.is_alive = False
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self._ours.close()

    def __enter__(self) -> OtherProcess[T]:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    @staticmethod
    def _serve(theirs: Connection, make: Callable[[], T]) -> None:
        try:
            made = make()
            theirs.send((None, None))
            while True:
                name, arguments = theirs.recv()
                try:
                    theirs.send((getattr(made, name)(*arguments), None))
                except Exception:
                    theirs.send((None, traceback.format_exc()))
        finally:
            # Whatever happens: this is a copy of the tests' own process.
            os._exit(0)
