"""How long what is checked out is kept, for code that is in no request."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ContextDecorator
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import Any, TypeVar

from django_db_pooling import owner

F = TypeVar("F", bound=Callable[..., Any])


class scope(ContextDecorator):
    """Context manager and decorator: what this thread or greenlet checks out inside goes back at its end.

    For code outside of requests: a management command's loop, a worker's job. What was checked out
    before, for a transaction around it for example, stays. A transaction that was begun inside and
    is still open at the end is rolled back.
    """

    def __init__(self) -> None:
        self._before: list[list[Any]] = []

    def __call__(self, func: F) -> F:
        if isgeneratorfunction(func) or iscoroutinefunction(func) or isasyncgenfunction(func):
            raise TypeError(f"scope() would end before {func.__qualname__}() runs; use it inside of it")
        return super().__call__(func)

    def _recreate_cm(self) -> scope:
        return type(self)()

    def __enter__(self) -> scope:
        self._before.append(owner.current().holding())
        return self

    def __exit__(self, *exc_info: object) -> None:
        before = self._before.pop()
        owner.give_all_back([held for held in owner.current().holding() if held not in before])
