"""A process that serves: from its first request on MIN_SIZE is kept for every alias, also those not used yet.

Not earlier: what imports the project may be a server's master, which forks, or a command.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

from django.conf import settings
from django.db import connections

from django_db_pooling import conf
from django_db_pooling.backend.base import LeaseHolder
from django_db_pooling.backend.checkout import find_identity
from django_db_pooling.process import upkeep
from django_db_pooling.process.tasks import Tasks


class Serving:
    """Looked after by ``process.upkeep``, before the pools."""

    name = "a process that serves"

    def __init__(self) -> None:
        self.tasks = Tasks()
        self.has_begun = False
        # Those whose pool is still to be made.
        self._aliases: list[str] = []

    def begin(self, sender: Any) -> None:
        """At the first request. Not at a test client's, nor in a run of tests: there aliases that no test
        uses lead to the real databases.
        """
        state = getattr(sys.modules.get("django.test.utils"), "_TestState", None)
        if getattr(sender, "__module__", "") == "django.test.client" or hasattr(state, "saved_data"):
            return
        self.has_begun = True
        if settings.configured:
            self._aliases = list(connections.settings)
            upkeep.ensure_running()

    def every_second(self) -> bool:
        aliases, self._aliases = self._aliases, []
        for alias in aliases:
            # Once: what is wrong with one hears who uses it.
            self.tasks.run(f"the pool {alias!r} for MIN_SIZE", partial(_make_pool, alias))
        return False

    def forked(self) -> None:
        self.has_begun, self._aliases = False, []

    def end(self) -> None:
        return


def _make_pool(alias: str) -> None:
    """Where the settings have a MIN_SIZE: then it is filled, as any other."""
    settings_dict = connections.settings[alias]
    if conf.is_off(settings_dict) or not conf.limits_for(alias, settings_dict).min_size:
        return
    wrapper: Any = connections[alias]
    try:
        if isinstance(wrapper, LeaseHolder):
            find_identity(wrapper)
    finally:
        # This thread is the housekeeper's, which has no use for it.
        del connections[alias]


serving = Serving()
