"""A pytest plugin for a child process: runs the tests that its parent asks for, as it asks for them."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from tests.apart import PIPES


class Inside:
    def __init__(self, config: pytest.Config, reading: int, writing: int) -> None:
        self._config = config
        self._process = os.getpid()
        self._requests = os.fdopen(reading, encoding="utf-8")
        self._writing = writing
        self._errors: list[str] = []

    def _send(self, **message: Any) -> None:
        if os.getpid() != self._process:
            # A fork, which a test was to end.
            os._exit(1)
        left = json.dumps(message, default=str).encode() + b"\n"
        while left:
            left = left[os.write(self._writing, left) :]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._errors.append(f"{report.nodeid}\n{report.longreprtext}")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = {item.nodeid: item for item in session.items}
        found = [[item.nodeid, item.location[1] or 0, self._seconds(item)] for item in session.items]
        self._send(found=found, errors=self._errors, captured=self._captured())
        expected: pytest.Item | None = None
        for line in self._requests:
            asked = json.loads(line)
            item = items[asked["run"]]
            if expected is not item:
                # Another one than the test before was told of: nothing of that is of use.
                session._setupstate.teardown_exact(None)
            expected = items.get(asked["following"])
            session.config.hook.pytest_runtest_protocol(item=item, nextitem=expected)
            self._send(done=item.nodeid)
        self._requests.close()
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._send(report=data)

    def _seconds(self, item: pytest.Item) -> float:
        """How long it may take; 0: there is no limit."""
        mark = item.get_closest_marker("timeout")
        if mark is not None:
            return float(mark.args[0] if mark.args else mark.kwargs["timeout"])
        return float(self._config.getini("timeout") or 0)

    def _captured(self) -> list[int]:
        """Descriptors of the files that have what a test prints, should it never come to a report."""
        capturing = self._config.pluginmanager.getplugin("capturemanager")._global_capturing
        files = [getattr(part, "tmpfile", None) for part in (capturing.out, capturing.err)]
        return [file.fileno() for file in files if hasattr(file, "buffer")]


def pytest_configure(config: pytest.Config) -> None:
    reading, writing = map(int, os.environ.pop(PIPES).split(","))
    for descriptor in (reading, writing):
        os.set_inheritable(descriptor, False)
    config.pluginmanager.register(Inside(config, reading, writing))
