"""Others wrap the methods of Django's ConnectionHandler, before patch(), after it, or between two of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from inspect import getattr_static
from typing import Any

import pytest
from django.db import connections
from django.db.utils import ConnectionHandler
from django.utils.connection import ConnectionDoesNotExist

from django_db_pooling import pooling
from django_db_pooling.backend.wrapper import PooledWrapper
from tests.behaviour.conftest import assert_whole, in_thread, one

METHODS = ("__getitem__", "all")


class Tracer:
    """What it wraps it calls, and notes that it was called."""

    def __init__(self, style: str) -> None:
        self.style = style
        self.seen: list[str] = []
        self._before: dict[str, Any] = {}

    def install(self) -> None:
        for name in METHODS:
            # None where the class inherits it.
            self._before[name] = vars(ConnectionHandler).get(name)
            setattr(ConnectionHandler, name, self._wrapping(name))

    def uninstall(self) -> None:
        for name, before in self._before.items():
            if before is None:
                delattr(ConnectionHandler, name)
            else:
                setattr(ConnectionHandler, name, before)

    def _wrapping(self, name: str) -> Any:
        wrapped, seen = getattr(ConnectionHandler, name), self.seen
        if self.style == "a class":
            return Wrapping(getattr_static(ConnectionHandler, name), name, seen)

        def wrapping(self: Any, *arguments: Any, **keywords: Any) -> Any:
            seen.append(name)
            return wrapped(self, *arguments, **keywords)

        return functools.wraps(wrapped)(wrapping) if self.style == "functools.wraps" else wrapping


class Wrapping:
    """As wrapt has it: it passes for what it wraps, and calls that as a method of its instance."""

    def __init__(self, wrapped: Any, name: str, seen: list[str]) -> None:
        self.__wrapped__ = wrapped
        self._name, self._seen = name, seen

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__wrapped__, name)

    def __get__(self, instance: Any, owner: type[Any]) -> Callable[..., Any]:
        def bound(*arguments: Any, **keywords: Any) -> Any:
            self._seen.append(self._name)
            return self.__wrapped__.__get__(instance, owner)(*arguments, **keywords)

        return bound


STYLES = ("plain", "functools.wraps", "a class")


@pytest.fixture(params=STYLES)
def tracer(request: pytest.FixtureRequest) -> Iterator[Tracer]:
    pooling.unpatch()
    assert not set(METHODS) & vars(ConnectionHandler).keys()
    yield Tracer(request.param)
    pooling.unpatch()
    for name in set(METHODS) & vars(ConnectionHandler).keys():
        delattr(ConnectionHandler, name)
    pooling.patch()


def is_pooled() -> bool:
    def use() -> bool:
        one()
        wrapper = connections["default"]
        # A plain one would stay open until it is collected.
        wrapper.close()
        return isinstance(wrapper, PooledWrapper)

    pooled: bool = in_thread(use)
    return pooled


def assert_called(tracer: Tracer) -> None:
    for call, name in ((lambda: connections["default"], "__getitem__"), (connections.all, "all")):
        before = tracer.seen.count(name)
        assert call()
        assert tracer.seen.count(name) > before


def standing() -> list[Any]:
    return [vars(ConnectionHandler).get(name) for name in METHODS]


def test_one_from_before_patch_is_called_and_stays_after_unpatch(tracer: Tracer) -> None:
    tracer.install()
    before = standing()
    pooling.patch()
    assert is_pooled()
    assert_called(tracer)
    with pytest.raises(ConnectionDoesNotExist):
        connections["nowhere"]
    pooling.unpatch()
    assert all(now is then for now, then in zip(standing(), before, strict=True))
    assert_called(tracer)
    assert not is_pooled()
    tracer.uninstall()
    assert standing() == [None, None]


def test_one_from_after_patch_is_called_also_after_another_patch(tracer: Tracer) -> None:
    pooling.patch()
    tracer.install()
    pooling.patch()
    assert is_pooled()
    assert_called(tracer)
    assert_whole()


def test_after_unpatch_nothing_is_pooled_though_it_was_wrapped(tracer: Tracer) -> None:
    pooling.patch()
    tracer.install()
    before = standing()
    pooling.unpatch()
    assert all(now is then for now, then in zip(standing(), before, strict=True))
    assert not is_pooled()
    assert_called(tracer)
    pooling.patch()
    assert is_pooled()
    assert_called(tracer)


def test_one_that_takes_itself_out_in_between_leaves_the_pool(tracer: Tracer) -> None:
    """It puts back what stood there before patch(): another patch() comes back."""
    tracer.install()
    pooling.patch()
    tracer.uninstall()
    assert not is_pooled()
    pooling.patch()
    assert is_pooled()
    pooling.unpatch()
    assert standing() == [None, None]


def test_patching_again_changes_nothing(tracer: Tracer) -> None:
    pooling.patch()
    if tracer.style != "plain":
        tracer.install()
    before = standing()
    pooling.patch()
    assert all(now is then for now, then in zip(standing(), before, strict=True))
