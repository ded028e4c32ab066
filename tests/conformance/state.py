"""Whether a run is really one with, or without, the patch; called in its process."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from django.db import connections
from django.db.utils import ConnectionHandler

from tests.conformance.spec import Spec

PACKAGE = "django_db_pooling"
COUNTS = ("checkouts", "opened", "closed", "timeouts", "reclaimed", "broken")


class WrongRun(Exception):
    """A run was not what it should have been, and its verdicts mean nothing."""


def check(spec: Spec, aliases: Iterable[str]) -> dict[str, dict[str, int]]:
    """What the pools of the aliases that the tests use have counted, at the end. Raises WrongRun."""
    for alias in aliases:
        wrapper: Any = connections[alias]
        driver = wrapper.Database.__name__
        if driver.split(".")[0] != spec.driver:
            raise WrongRun(f"{alias}: the driver is {driver}")
        if not spec.transactions and connections[alias].features.supports_transactions:
            raise WrongRun(f"{alias}: Django believes in transactions")
    if spec.scope is None:
        _check_unpatched()
        return {}
    stats = _stats()
    for path in Path(spec.output).glob("worker-*.json"):
        for alias, told in json.loads(path.read_text()).items():
            stats[alias] = {name: count + told[name] for name, count in stats[alias].items()}
    _check_patched(spec.scope, aliases, stats)
    return {alias: stats[alias] for alias in aliases}


def write_worker(spec: Spec) -> None:
    """In a process of --parallel: leave what its pools count for check() in the main process."""
    if spec.scope is not None:
        Path(spec.output, f"worker-{os.getpid()}.json").write_text(json.dumps(_stats()))


def _stats() -> dict[str, dict[str, int]]:
    from django_db_pooling import pooling

    return {alias: {name: getattr(told, name) for name in COUNTS} for alias, told in pooling.stats().items()}


def _check_unpatched() -> None:
    if "__getitem__" in vars(ConnectionHandler):
        raise WrongRun("ConnectionHandler.__getitem__ is patched")
    if PACKAGE in sys.modules:
        raise WrongRun(f"{PACKAGE} was imported")


def _check_patched(scope: str, aliases: Iterable[str], stats: dict[str, dict[str, int]]) -> None:
    from django_db_pooling import conf, owner
    from django_db_pooling.backend.wrapper import PooledWrapper

    if "__getitem__" not in vars(ConnectionHandler):
        raise WrongRun("ConnectionHandler.__getitem__ is not patched")
    for alias in aliases:
        if not isinstance(connections[alias], PooledWrapper):
            raise WrongRun(f"{alias}: the wrapper is Django's own")
        if {conf.scope(connections[alias].settings_dict), owner.ELSEWHERE} != {scope}:
            raise WrongRun(f"{alias}: {scope} scope does not apply everywhere")
        if not stats[alias]["checkouts"]:
            raise WrongRun(f"{alias}: no connection was ever checked out of a pool")
