"""What only watches (looks at a statement, counts, notes) never raises: its failures are written to the log.

Not at once: a handler of logging may write, take locks and switch greenlets, and some watch where that must
not happen. The housekeeper writes them.
"""

from __future__ import annotations

import contextlib
from collections import deque

from django_db_pooling.log import is_signalled, redact, traceback_text
from django_db_pooling.process import upkeep
from django_db_pooling.process.tasks import Tasks, log_failure

MAX_FAILURES = 100


class Observers:
    """Each of them, by what it does, is logged when it fails for the first time."""

    name = "failures of observers"

    def __init__(self) -> None:
        self.tasks = Tasks()
        self._failures: deque[tuple[str, str, str]] = deque(maxlen=MAX_FAILURES)
        # After those that may fail.
        upkeep.add(self, last=True)

    def failed(self, doing: str, error: Exception) -> None:
        """To be called where the error is caught; anywhere, in finalizers, too: no I/O, no lock, no switch.

        What a signal's handler has raised, to end a task for example, is no failure, and goes on.
        """
        if is_signalled(error):
            try:
                raise error
            finally:
                # Its traceback refers to this frame, and to those that have a slot.
                del error
        with contextlib.suppress(RecursionError):
            if self.tasks.is_new(doing):
                self._failures.append((doing, redact(error), traceback_text(error)))

    def every_second(self) -> bool:
        while self._failures:
            log_failure(*self._failures.popleft())
        return False

    def forked(self) -> None:
        # The parent writes its own.
        self._failures.clear()

    def end(self) -> None:
        self.every_second()


observers = Observers()
