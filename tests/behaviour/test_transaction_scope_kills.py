"""Transaction scope with the rest of Django: interruptions, in every place."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from django.db import (
    connections,
    transaction,
)

from django_db_pooling import pooling
from tests.behaviour.brief import (
    INSERT,
    Killed,
    TooLate,
    add,
    add_many,
    assert_exact,
    brief,
    in_use,
    nothing_told,  # noqa: F401
    told,
)
from tests.behaviour.conftest import (
    DRIVER,
    GEVENT,
    PATIENCE,
    assert_whole,
    committed,
    eventually,
    held,
    one,
    request_finished,
    request_started,
    token,
)
from tests.behaviour.models import Note
from tests.behaviour.observer import Observer
from tests.behaviour.test_interrupts import MOST_SWITCHES, Interruption
from tests.proxy import TcpProxy

pytestmark = [pytest.mark.transaction_scope, pytest.mark.usefixtures("nothing_told")]

BLOWS = ("GreenletExit", "Timeout", "Killed", "TooLate")


class Victim:
    """A thread or greenlet into which an error can be thrown while it runs Python code."""

    def __init__(self, work: Callable[[Victim], None]) -> None:
        self._work = work
        self.reached = threading.Event()
        self.died_of: type[BaseException] | None = None
        if GEVENT:
            import gevent

            self._greenlet: Any = gevent.spawn(self._run)
        else:
            self._thread = threading.Thread(target=self._run)
            self._thread.start()

    def _run(self) -> None:
        try:
            self._work(self)
        except BaseException as error:
            self.died_of = type(error)

    def pause(self) -> None:
        """Where the error strikes."""
        self.reached.set()
        while True:
            time.sleep(0.001)

    def strike(self, how: str) -> None:
        if GEVENT:
            import gevent

            self._greenlet.kill(gevent.GreenletExit() if how == "kill" else gevent.Timeout(), block=False)
        else:
            kind = Killed if how == "kill" else TooLate
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(self._thread.ident or 0), ctypes.py_object(kind)
            )

    def join(self) -> str:
        """The name of what it has died of."""
        if GEVENT:
            self._greenlet.join(PATIENCE)
            assert self._greenlet.dead, "the victim hangs"
            del self._greenlet
        else:
            self._thread.join(PATIENCE)
            assert not self._thread.is_alive(), "the victim hangs"
        return "" if self.died_of is None else self.died_of.__name__


# What each step has done before it pauses, and what of it is committed.
def before_the_block(using: str, pause: Callable[[], None]) -> None:
    add("a", using)
    pause()


def in_a_block_that_has_not_begun(using: str, pause: Callable[[], None]) -> None:
    with transaction.atomic(using=using):
        transaction.on_commit(lambda: add("never", using), using=using)
        pause()


def in_the_middle_of_a_block(using: str, pause: Callable[[], None]) -> None:
    with transaction.atomic(using=using):
        transaction.on_commit(lambda: add("never", using), using=using)
        add("never", using)
        pause()


def in_the_middle_of_an_inner_block(using: str, pause: Callable[[], None]) -> None:
    with transaction.atomic(using=using):
        with transaction.atomic(using=using):
            add("never", using)
            pause()
        add("never", using)


def in_a_hook(using: str, pause: Callable[[], None]) -> None:
    def hook() -> None:
        add("hook", using)
        pause()

    with transaction.atomic(using=using):
        add("a", using)
        transaction.on_commit(hook, using=using)
        transaction.on_commit(lambda: add("never", using), using=using)


def in_a_block_of_a_hook(using: str, pause: Callable[[], None]) -> None:
    def hook() -> None:
        with transaction.atomic(using=using):
            add("never", using)
            pause()

    with transaction.atomic(using=using):
        add("a", using)
        transaction.on_commit(hook, using=using)


def while_a_cursor_is_open(using: str, pause: Callable[[], None]) -> None:
    with connections[using].cursor() as cursor:
        cursor.execute(INSERT, ["a"])
        pause()


def while_an_iterator_is_read(using: str, pause: Callable[[], None]) -> None:
    add_many("ab", using)
    for _ in Note.objects.using(using).iterator(chunk_size=1):
        pause()


def in_a_transaction_by_hand(using: str, pause: Callable[[], None]) -> None:
    transaction.set_autocommit(False, using=using)
    add("never", using)
    pause()


def while_pinned(using: str, pause: Callable[[], None]) -> None:
    pooling.pin(using)
    add("a", using)
    pause()


STEPS: dict[Callable[[str, Callable[[], None]], None], list[str]] = {
    before_the_block: ["a"],
    in_a_block_that_has_not_begun: [],
    in_the_middle_of_a_block: [],
    in_the_middle_of_an_inner_block: [],
    in_a_hook: ["a", "hook"],
    in_a_block_of_a_hook: ["a"],
    while_a_cursor_is_open: ["a"],
    while_an_iterator_is_read: ["a", "b"],
    in_a_transaction_by_hand: [],
    while_pinned: ["a"],
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(("how", "around"), [("kill", "request"), ("timeout", "nothing"), ("timeout", "end")])
def test_killed_in_its_own_code_it_holds_nothing_and_commits_nothing_more(
    step: Callable[[str, Callable[[], None]], None], how: str, around: str, observer: Observer
) -> None:
    """Outside of requests, in one whose end nobody tells, and in one that ends as it should."""

    def work(victim: Victim) -> None:
        if around != "nothing":
            request_started()
        try:
            step(alias, victim.pause)
        finally:
            if around == "end":
                request_finished()

    with brief() as alias:
        victim = Victim(work)
        assert victim.reached.wait(PATIENCE)
        victim.strike(how)
        assert victim.join() in BLOWS
        assert_exact(alias, observer)
        assert committed() == STEPS[step]


@pytest.mark.parametrize("where", ["block", "statement", "iterator"])
@pytest.mark.only("gevent")
def test_killed_while_waiting_for_a_connection(where: str, observer: Observer) -> None:
    def work(victim: Victim) -> None:
        if where == "block":
            with transaction.atomic():
                transaction.on_commit(lambda: told.append("never"))
                add("never")
        elif where == "statement":
            add("never")
        else:
            list(Note.objects.iterator())

    with held(4):
        for how in ("kill", "timeout", "kill"):
            victims = [Victim(work) for _ in range(3)]
            eventually(lambda: pooling.stats("default").waiting == 3)
            for victim in victims:
                victim.strike(how)
            for victim in victims:
                assert victim.join() in BLOWS
            assert (pooling.stats("default").waiting, in_use()) == (0, 4)
    assert_exact("default", observer)
    assert (committed(), told) == ([], [])
    assert_whole()


@pytest.mark.only("gevent")
@pytest.mark.parametrize("how", ["kill", "timeout"])
def test_killed_while_a_hook_waits_for_a_connection(how: str, observer: Observer) -> None:
    """What the block gives back goes to somebody who has waited, and its hook has to wait in turn."""
    pooling.set_pool_size(1, max_outstanding=1)
    entered, leave, letting_go = threading.Event(), threading.Event(), threading.Event()

    def work(victim: Victim) -> None:
        with transaction.atomic():
            add("a")
            transaction.on_commit(lambda: add("never"))
            entered.set()
            leave.wait(PATIENCE)

    @pooling.scope("request")
    def greedy() -> None:
        one()
        letting_go.wait(PATIENCE)

    victim = Victim(work)
    assert entered.wait(PATIENCE)
    other = threading.Thread(target=greedy)
    other.start()
    eventually(lambda: pooling.stats("default").waiting == 1)
    leave.set()
    eventually(lambda: committed() == ["a"] and pooling.stats("default").waiting == 1)
    victim.strike(how)
    assert victim.join() in BLOWS
    # Its COMMIT may have been answered and not read: then the server is told to end that session first.
    eventually(lambda: pooling.stats("default").waiting == 0)
    letting_go.set()
    other.join(PATIENCE)
    assert_exact("default", observer)
    assert committed() == ["a"]
    assert_whole()


@pytest.fixture
def slowly() -> Iterator[str]:
    """An alias whose every answer lets other greenlets run first, where the driver can wait for that."""
    if DRIVER in ("sqlite3", "mysqlclient"):
        with brief() as alias:
            yield alias
        return
    settings = connections.settings["default"]
    with (
        TcpProxy(settings["HOST"], int(settings["PORT"])) as proxy,
        brief(HOST=proxy.host, PORT=str(proxy.port)) as alias,
    ):
        yield alias


def request_of_everything(using: str, finish: bool) -> None:
    request_started()
    try:
        token(using)
        with transaction.atomic(using=using):
            time.sleep(0)
            transaction.on_commit(lambda: add("hook", using), using=using)
            add("a", using)
            time.sleep(0)
            with transaction.atomic(using=using):
                token(using)
            add("b", using)
        time.sleep(0)
        for _ in Note.objects.using(using).order_by("-id")[:2].iterator(chunk_size=1):
            time.sleep(0)
        with connections[using].cursor() as cursor:
            cursor.execute("SELECT 1")
            time.sleep(0)
            assert cursor.fetchall()
        time.sleep(0)
    finally:
        if finish:
            request_finished()


@pytest.mark.only("gevent")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("state", "finish", "error"),
    [
        ("cold", True, "Timeout"),
        ("checked", False, "GreenletExit"),
    ],
)
def test_interrupted_at_each_suspension_point_it_is_all_or_nothing(
    state: str, finish: bool, error: str, slowly: str, observer: Observer
) -> None:
    """cold: it connects; checked: it finds an idle connection, which it asks first."""
    import gevent

    connections.settings[slowly]["CONN_HEALTH_CHECKS"] = state == "checked"
    for number in range(MOST_SWITCHES):
        if state == "cold":
            pooling.close_all(slowly)
        else:
            one(slowly)
        before = len(committed())
        interruption = Interruption(number, getattr(gevent, error)())
        interruption.run(partial(request_of_everything, slowly, finish))
        assert_exact(slowly, observer)
        assert committed()[before:] in ([], ["a", "b"], ["a", "b", "hook"])
        token(slowly)
        if not interruption.happened:
            break
    else:
        raise AssertionError(f"more than {MOST_SWITCHES} switches")
    assert number >= 7, "hardly anything was interrupted"
    assert committed()[before:] == ["a", "b", "hook"]
    assert_whole(slowly)


@pytest.mark.only("threads")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_thread_that_is_struck_anywhere_loses_no_slot(observer: Observer) -> None:
    """Between any two instructions: what it drops in that moment is reclaimed.

    In a finalizer Python prints the error and goes on; then the thread ends with its request.
    """
    struck = 0
    with brief() as alias:

        def work(victim: Victim) -> None:
            while not over.is_set():
                request_of_everything(alias, True)
                victim.reached.set()

        for turn in range(20):
            over = threading.Event()
            victim = Victim(work)
            assert victim.reached.wait(PATIENCE)
            time.sleep(0.0001 * turn)
            victim.strike("kill" if turn % 2 else "timeout")
            over.set()
            struck += victim.join() != ""
        assert struck > 10
        assert_exact(alias, observer)
        texts_left = committed()
        assert texts_left.count("a") == texts_left.count("b") >= texts_left.count("hook") >= 20
        assert_whole(alias)
