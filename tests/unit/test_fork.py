"""A forked child notices that it is one, also where Python isn't told of the fork."""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from django_db_pooling.process import fork
from tests.concurrency import in_child, silent_fork

FORKS = [pytest.param(os.fork, id="by Python"), pytest.param(silent_fork, id="by C")]


class Struck(BaseException):
    """As a signal handler raises it."""


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The processes in which a function was called that is to be called in children."""
    pids: list[int] = []
    monkeypatch.setattr(fork, "_functions", [lambda: pids.append(os.getpid())])
    yield pids


def notice() -> None:
    if not fork.noticed[0]:
        fork.notice()


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="other systems have no such memory")
def test_looking_for_a_fork_is_no_system_call() -> None:
    assert isinstance(fork.noticed, mmap.mmap)


@pytest.mark.parametrize("how", FORKS)
@pytest.mark.parametrize("mark", [fork._wiped_in_children, fork._Pid])
def test_a_child_calls_each_function_once_and_is_another_process(
    called: list[int], mark: Callable[[], Any], how: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fork, "noticed", mark())
    fork.noticed[0] = 1
    before = fork.process

    def child() -> list[bool]:
        was_own = fork.is_own(before)
        notice()
        notice()
        return [was_own, fork.is_own(before), fork.is_own(fork.process), called == [os.getpid()]]

    assert in_child(child, how) == [False, False, True, True]
    notice()
    assert called == []
    assert fork.is_own(before)


@pytest.mark.parametrize("how", FORKS)
def test_so_does_a_childs_child(called: list[int], how: Callable[[], int]) -> None:
    def child() -> int:
        notice()
        return int(in_child(lambda: (notice(), len(set(called)))[1], how))

    assert in_child(child, how) == 2


def test_of_threads_that_come_by_together_none_goes_on_before_all_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first is in the middle of it while the others arrive."""
    arrived, done = threading.Event(), threading.Event()
    went_on: list[bool] = []

    def give_up() -> None:
        arrived.set()
        # Nobody else has gone on by then; the bound ends the test where one has.
        done.wait(0.2)
        went_on.append(done.is_set())
        done.set()

    def use() -> None:
        notice()
        went_on.append(done.is_set())

    def child() -> list[bool]:
        threads = [threading.Thread(target=use) for _ in range(8)]
        threads[0].start()
        arrived.wait(5)
        for thread in threads[1:]:
            thread.start()
        for thread in threads:
            thread.join(5)
        return went_on

    monkeypatch.setattr(fork, "_functions", [give_up])
    assert in_child(child, silent_fork) == [False] + [True] * 8


def test_what_is_interrupted_is_done_by_whoever_comes_next(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def second() -> None:
        calls.append("second")
        if len(calls) == 2:
            raise Struck

    def child() -> list[str]:
        with pytest.raises(Struck):
            notice()
        assert not fork.noticed[0]
        notice()
        return calls

    monkeypatch.setattr(fork, "_functions", [lambda: calls.append("first"), second])
    assert in_child(child, silent_fork) == ["first", "second", "first", "second"]


def test_a_function_may_use_what_it_is_to_give_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork, "_functions", [notice])
    assert in_child(lambda: notice() or bool(fork.noticed[0]), silent_fork)
