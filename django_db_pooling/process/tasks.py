"""Tasks of which none may keep the next one from running, whatever it raises."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TypeVar

from django_db_pooling.log import extra, logger, redact, traceback_text
from django_db_pooling.process import fork

T = TypeVar("T")


class Tasks:
    """Runs them, and logs which of them fails: once, and once more when it works again."""

    def __init__(self) -> None:
        self._failing: set[str] = set()
        self._process = fork.process

    def run(self, name: str, task: Callable[[], T]) -> T | None:
        """What the task returns; None where it raises an Exception."""
        try:
            result = task()
        except Exception as error:
            if self.is_new(name):
                log_failure(name, redact(error), traceback_text(error))
            return None
        if name in self._failing:
            self._failing.discard(name)
            # A filter of the site's may raise.
            with contextlib.suppress(Exception):
                logger.warning("%s works again", name, extra=extra("housekeeping", task=name))
        return result

    def is_new(self, name: str) -> bool:
        """Whether a task that has failed has not failed since it last worked."""
        if self._process is not fork.process:
            # In a forked child: what its parent has logged already is new here.
            self._process, self._failing = fork.process, set()
        if name in self._failing:
            return False
        self._failing.add(name)
        return True


def log_failure(name: str, error: str, trace: str) -> None:
    # A filter of the site's may raise.
    with contextlib.suppress(Exception):
        fields = extra("housekeeping", task=name, error=error)
        logger.error("%s failed, trying again: %s\n%s", name, error, trace, extra=fields)
