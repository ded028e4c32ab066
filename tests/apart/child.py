"""A child process that collects the tests of a folder and runs those that it is asked for."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from tests.apart import PIPES

ROOT = Path(__file__).parent.parent.parent
START_SECONDS = 90.0
END_SECONDS = 60.0
LAST_WORDS_SECONDS = 5.0
POLL_SECONDS = 0.2
# A child notices by itself that a test takes too long, and says where it is.
GRACE_SECONDS = 30.0
MOST_PRINTED = 20_000


class Found(NamedTuple):
    """A test: its id in the child, the number of its line, how many seconds it may take (0: any)."""

    id: str
    line: int
    seconds: float


class ChildFailed(Exception):
    """It has ended, or doesn't answer. The message ends with what it has printed."""


class Child:
    """``folder``: runs ``python -m tests.FOLDER`` with these options for pytest. ``shown``: what it prints
    goes where ours does.
    """

    def __init__(
        self, folder: str, environment: Mapping[str, str], options: Sequence[str] = (), shown: bool = False
    ) -> None:
        reading, self._requests = os.pipe()
        self._answers, writing = os.pipe()
        self._printed: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._captured: list[IO[bytes]] = []
        self._left = b""
        output = None if shown else self._printed
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                f"tests/{folder}".replace("/", "."),
                "-q",
                "-p",
                "no:cacheprovider",
                *options,
            ],
            cwd=ROOT,
            env=os.environ | {"PYTEST_ADDOPTS": "", **environment, PIPES: f"{reading},{writing}"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output and subprocess.STDOUT,
            pass_fds=(reading, writing),
            start_new_session=True,
        )
        os.close(reading)
        os.close(writing)

    def find(self) -> tuple[list[Found], list[str]]:
        """All tests of the folder, in their order, and errors on the way. To be called first."""
        try:
            answer = self._answer(time.monotonic() + START_SECONDS)
        except BaseException:
            self.kill()
            raise
        for descriptor in answer["captured"]:
            with contextlib.suppress(OSError):
                path = f"/proc/{self._process.pid}/fd/{descriptor}"
                self._captured.append(open(path, "rb"))  # noqa: SIM115
        return [Found(*found) for found in answer["found"]], answer["errors"]

    def run(self, test: Found, following: str) -> list[Any]:
        """The reports of the test, serialized. ``following``: the id of the test to be run next, or ""."""
        limit = time.monotonic() + test.seconds + GRACE_SECONDS if test.seconds else float("inf")
        asked = json.dumps({"run": test.id, "following": following}) + "\n"
        reports = []
        try:
            # Where it has ended, that is found below.
            with contextlib.suppress(BrokenPipeError):
                os.write(self._requests, asked.encode())
            while "done" not in (answer := self._answer(limit)):
                reports.append(answer["report"])
        except BaseException:
            self.kill()
            raise
        return reports

    def end(self) -> None:
        """Have it take down what its tests have shared."""
        if self._requests < 0:
            return
        os.close(self._requests)
        self._requests = -1
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
        self.kill()

    def kill(self) -> None:
        """With whatever processes it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for descriptor in (self._requests, self._answers):
            if descriptor >= 0:
                os.close(descriptor)
        self._requests = self._answers = -1
        for file in (self._printed, *self._captured):
            file.close()

    def _answer(self, limit: float) -> Any:
        """The next message, waited for until then."""
        while b"\n" not in self._left:
            # Not the end of the pipe: a process that a test has left behind may have it open.
            ended = self._process.poll() is not None
            if select.select([self._answers], [], [], 0 if ended else POLL_SECONDS)[0]:
                more = os.read(self._answers, 1 << 16)
                self._left += more
                if more:
                    continue
            if ended:
                raise ChildFailed(f"the child has ended: {self._process.returncode}\n{self._told()}")
            if time.monotonic() > limit:
                # faulthandler then says where each thread is.
                self._process.send_signal(signal.SIGABRT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(LAST_WORDS_SECONDS)
                raise ChildFailed(f"the child hangs\n{self._told()}")
        line, _, self._left = self._left.partition(b"\n")
        return json.loads(line)

    def _told(self) -> str:
        """What was printed: by the test, and by whoever has ended it."""
        parts = []
        for file in (*self._captured, self._printed):
            file.seek(max(0, file.seek(0, os.SEEK_END) - MOST_PRINTED))
            parts.append(file.read().decode(errors="replace"))
        return "\n".join(filter(None, parts))
