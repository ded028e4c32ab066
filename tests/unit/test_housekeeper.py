from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from django_db_pooling.process import housekeeper as housekeeper_module
from django_db_pooling.process.housekeeper import Housekeeper
from tests.unit.fakes import SOON, until

NAME = "django_db_pooling housekeeper"


@pytest.fixture(autouse=True)
def short_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeper_module, "TICK", 0.001)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == NAME]


class Work:
    """Does what it is told, one after the other: an answer, or an error to raise. Then it stops."""

    def __init__(self, *answers: bool | BaseException) -> None:
        self.answers = list(answers)
        self.calls = 0

    def __call__(self) -> bool:
        self.calls += 1
        answer = self.answers.pop(0) if self.answers else False
        if isinstance(answer, BaseException):
            raise answer
        return answer


@pytest.fixture(autouse=True)
def all_threads_end() -> object:
    yield
    until(lambda: not threads())


def test_nothing_runs_before_it_is_needed() -> None:
    Housekeeper(Work(True))
    assert threads() == []


def test_it_has_no_thread_where_python_is_not_told_of_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of uWSGI that is the master, but none of its workers."""
    pid = os.getpid()
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(masterpid=lambda: pid))
    work = Work(True)
    house = Housekeeper(work)
    house.ensure_running()
    assert threads() == []
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(masterpid=os.getppid))
    house.ensure_running()
    until(lambda: work.calls == 3 and not threads())


def test_it_works_at_each_tick_until_there_is_nothing_to_look_after() -> None:
    work = Work(True, True, True, False)
    Housekeeper(work).ensure_running()
    until(lambda: not threads())
    # One look more when it is gone already.
    assert work.calls == 5


def test_its_thread_does_not_keep_the_process_alive() -> None:
    go = threading.Event()
    Housekeeper(lambda: not go.wait(SOON)).ensure_running()
    assert [thread.daemon for thread in threads()] == [True]
    go.set()


def test_there_is_one_thread_however_often_it_is_asked_for() -> None:
    go = threading.Event()
    housekeeper = Housekeeper(lambda: not go.is_set())
    for _ in range(10):
        housekeeper.ensure_running()
    assert len(threads()) == 1
    go.set()


def test_it_starts_again_after_it_has_stopped() -> None:
    work = Work()
    housekeeper = Housekeeper(work)
    housekeeper.ensure_running()
    until(lambda: not threads())
    before = work.calls
    housekeeper.ensure_running()
    until(lambda: work.calls > before)


def test_it_goes_on_after_an_error(caplog: pytest.LogCaptureFixture) -> None:
    work = Work(OSError("a bad day"), True, False)
    Housekeeper(work).ensure_running()
    until(lambda: work.calls == 4)
    assert "a bad day" in caplog.text
    assert "trying again" in caplog.text


def test_it_goes_on_after_an_error_in_its_last_look(caplog: pytest.LogCaptureFixture) -> None:
    """There was nothing to look after, it is about to go, and its look whether that still holds fails."""
    work = Work(False, OSError("a bad day"), True, False)
    Housekeeper(work).ensure_running()
    until(lambda: work.calls >= 4, 2.0)
    assert "a bad day" in caplog.text


def test_what_is_found_in_the_last_look_keeps_it_running() -> None:
    """Something new comes at the moment in which it stops: the asker saw it running still."""
    work = Work(False, True, True, False)
    Housekeeper(work).ensure_running()
    until(lambda: work.calls == 5)


def test_who_asks_for_it_while_it_stops_gets_a_thread() -> None:
    """It has said that it is gone, and looks a last time. Whoever asks then starts another thread,
    and this one goes even if there is something to do: one is enough.
    """
    asked: list[Callable[[], None]] = []
    looks: list[str] = []
    go = threading.Event()

    def work() -> bool:
        looks.append(threading.current_thread().name)
        if len(looks) == 1:
            return False
        if not asked:
            asked.append(housekeeper.ensure_running)
            housekeeper.ensure_running()
        return not go.is_set()

    housekeeper = Housekeeper(work)
    housekeeper.ensure_running()
    until(lambda: len(looks) > 10)
    assert len(threads()) == 1
    go.set()


@pytest.mark.parametrize("end", [SystemExit(), KeyboardInterrupt()], ids=["SystemExit", "KeyboardInterrupt"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_it_starts_again_after_it_was_killed(end: BaseException) -> None:
    """A greenlet can be killed, with all others; who needs the housekeeper later must get another."""
    work = Work(end, True, False)
    housekeeper = Housekeeper(work)
    housekeeper.ensure_running()
    until(lambda: not threads())
    assert work.calls == 1
    housekeeper.ensure_running()
    until(lambda: work.calls > 1, 2.0)


def test_a_thread_that_cannot_start_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(True)
    housekeeper = Housekeeper(work)

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        housekeeper.ensure_running()
    housekeeper.ensure_running()
    until(lambda: work.calls > 0)
