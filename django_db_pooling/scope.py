"""How long connections are held, said by code."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ContextDecorator
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import Any, TypeVar

from django_db_pooling import conf, owner

F = TypeVar("F", bound=Callable[..., Any])


class scope(ContextDecorator):
    """Context manager and decorator: what this thread or greenlet checks out inside goes back at its end.

    ``name``: how long a connection is held inside, ``"request"`` (to the end of this scope) or
    ``"transaction"`` (as long as a transaction needs it); left out, as outside. What was checked out
    before, for a transaction around it for example, stays. A transaction that was begun inside and
    is still open at the end is rolled back. Raises ValueError for another name.
    """

    def __init__(self, name: str | None = None) -> None:
        if name not in (None, conf.REQUEST, conf.TRANSACTION):
            raise ValueError(f"name must be {conf.REQUEST!r}, {conf.TRANSACTION!r} or None, not {name!r}")
        self._name = name
        self._before: list[owner.Claims] = []

    def __call__(self, func: F) -> F:
        if isgeneratorfunction(func) or iscoroutinefunction(func) or isasyncgenfunction(func):
            raise TypeError(f"scope() would end before {func.__qualname__}() runs; use it inside of it")
        return super().__call__(func)

    def _recreate_cm(self) -> scope:
        return type(self)(self._name)

    def __enter__(self) -> scope:
        mine = owner.current()
        self._before.append(mine.claims())
        if self._name is not None:
            mine.scopes.append(self._name)
        return self

    def __exit__(self, *exc_info: object) -> None:
        mine = owner.current()
        if self._name is not None:
            mine.scopes.pop()
        owner.give_all_back(owner.others(mine.holding(), self._before.pop()))
