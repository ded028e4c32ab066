"""Things that have to be done one after the other, each whatever becomes of the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from django_db_pooling.log import extra, logger, redact, stack_of
from django_db_pooling.process import fork

T = TypeVar("T")


class Duties:
    """Does them, and says which of them fails: once, and once more when it works again."""

    def __init__(self) -> None:
        self._failing: set[str] = set()
        self._process = fork.process

    def do(self, name: str, duty: Callable[[], T]) -> T | None:
        """What the duty returns; None where it raises an Exception."""
        if self._process is not fork.process:
            # In a forked child: what its parent has told of is news here.
            self._process, self._failing = fork.process, set()
        try:
            result = duty()
        except Exception as error:
            if name not in self._failing:
                self._failing.add(name)
                told = redact(error)
                fields = extra("housekeeping", duty=name, error=told)
                logger.error("%s failed, trying again: %s\n%s", name, told, stack_of(error), extra=fields)
            return None
        if name in self._failing:
            self._failing.discard(name)
            logger.warning("%s works again", name, extra=extra("housekeeping", duty=name))
        return result


# Those of this process.
duties = Duties()
