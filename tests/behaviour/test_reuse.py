"""Wrappers used again: a thread or greenlet that has ended leaves its wrapper to the next one, unless
somebody else still has a part of it, or it isn't as a new one would be.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import DatabaseError, Error, connection, connections, reset_queries, transaction
from django.db.utils import ConnectionHandler
from django.test import override_settings

from django_db_pooling import pooling
from django_db_pooling.backend import reuse
from django_db_pooling.backend.lease import AWAITED
from django_db_pooling.backend.wrapper import PooledWrapper
from django_db_pooling.registry import registry
from tests.behaviour.conftest import (
    GEVENT,
    PATIENCE,
    another_alias,
    assert_whole,
    committed,
    eventually,
    in_thread,
    in_threads,
    one,
    plain,
    request_finished,
    request_started,
    sql,
    token,
)
from tests.behaviour.models import Note
from tests.concurrency import in_child, silent_fork

pytestmark = pytest.mark.skipif(not reuse.IS_POSSIBLE, reason="reference counts don't say who refers")


@pytest.fixture(autouse=True)
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The aliases of which wrappers were made. The collector doesn't help."""
    made: list[str] = []
    create = ConnectionHandler.create_connection

    def noting(self: Any, alias: str) -> Any:
        made.append(alias)
        return create(self, alias)

    in_thread(one)
    # A greenlet's storage goes a moment after it.
    eventually(lambda: any(identity.spare_wrappers for identity in identities()))
    forget_spare()
    monkeypatch.setattr(ConnectionHandler, "create_connection", noting)
    gc.collect()
    gc.disable()
    yield made
    gc.enable()


def settle() -> None:
    eventually(lambda: pooling.stats("default").in_use == 0)


def identities() -> list[Any]:
    return [identity for pool in registry.pools() for identity in pool.identities]


def forget_spare() -> None:
    for identity in identities():
        identity.spare_wrappers.clear()


def wrapper() -> Any:
    """This thread's, itself."""
    return connections["default"]


def use() -> None:
    token()
    with transaction.atomic():
        token()
    list(Note.objects.all())


# -- without anybody who keeps one ------------------------------------------------------------------


@pytest.mark.transaction_scope
@pytest.mark.parametrize("scope", ["request", "transaction"])
@pytest.mark.parametrize("ends", [True, False], ids=["finished", "left"])
def test_a_hundred_threads_one_after_another_need_one_wrapper(
    made: list[str], scope: str, ends: bool
) -> None:
    idents = set()

    def work() -> None:
        request_started()
        with pooling.scope(scope):
            use()
        idents.add(wrapper()._thread_ident)
        assert wrapper()._thread_ident == threading.get_ident()
        if ends:
            request_finished()

    for _ in range(100):
        in_thread(work)
        settle()
    assert made == ["default"]
    assert not GEVENT or len(idents) > 1


@pytest.mark.transaction_scope
def test_threads_at_the_same_time_have_a_wrapper_each(made: list[str]) -> None:
    pooling.set_pool_size(4, max_outstanding=8, timeout=10)
    together = threading.Barrier(8)

    def work() -> int:
        with pooling.scope("request"):
            token()
            mine = wrapper()
            together.wait(PATIENCE)
            token()
            assert wrapper() is mine
            together.wait(PATIENCE)
        return id(mine)

    for _ in range(5):
        assert len(set(in_threads([work] * 8))) == 8
        settle()
    assert len(made) == 8


def test_what_is_not_asked_about_references_makes_each_wrapper_anew(
    made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reuse, "IS_POSSIBLE", False)
    for _ in range(3):
        in_thread(use)
        settle()
    assert len(made) == 3


def test_what_a_killed_request_has_left_does_not_keep_its_wrapper_from_the_next(made: list[str]) -> None:
    def left_open() -> None:
        transaction.atomic().__enter__()
        Note.objects.create(text="left open")

    for _ in range(3):
        in_thread(left_open)
        settle()
    assert committed() == []
    assert made == ["default"]


@pytest.mark.transaction_scope
def test_a_block_that_never_began_does_not_keep_its_wrapper_from_the_next(made: list[str]) -> None:
    def left_open() -> None:
        use()
        transaction.atomic().__enter__()

    def look() -> bool:
        begun = bool(wrapper().in_atomic_block)
        use()
        return begun

    in_thread(left_open)
    settle()
    assert not in_thread(look)
    assert made == ["default"]


# -- kept by somebody -------------------------------------------------------------------------------


def closure() -> Any:
    mine = wrapper()
    return lambda: mine.alias


def cursor() -> Any:
    opened = connection.cursor()
    opened.execute("SELECT 1")
    return opened


def fetchone() -> Any:
    return cursor().fetchone


def rows() -> Any:
    Note.objects.bulk_create([Note(text=str(number)) for number in range(5)])
    iterator = Note.objects.all().iterator(chunk_size=1)
    next(iterator)
    return iterator


def error() -> Any:
    mine = wrapper()
    try:
        sql("SELECT nothing FROM nowhere")
    except Error as failed:
        return failed, mine.alias
    raise AssertionError


def patched_cursor() -> Any:
    mine, before = wrapper(), wrapper().cursor
    mine.cursor = lambda: before()
    return None


def own(name: str) -> Callable[[], Any]:
    def get() -> Any:
        return getattr(wrapper(), name)

    get.__name__ = name
    return get


def weak(name: str) -> Callable[[], Any]:
    def get() -> Any:
        return weakref.ref(getattr(wrapper(), name))

    get.__name__ = f"weak_{name}"
    return get


def weak_wrapper() -> Any:
    return weakref.ref(wrapper())


def weak_proxy() -> Any:
    return weakref.proxy(wrapper())


def weak_method() -> Any:
    return weakref.WeakMethod(wrapper().on_commit)


def attributes() -> Any:
    return vars(wrapper())


def shallow_copy() -> Any:
    return copy.copy(wrapper())


def traceback_of_a_frame() -> Any:
    mine = wrapper()
    try:
        raise ValueError(mine.alias)
    except ValueError as raised:
        return raised


RARE = ["introspection", "creation", "client", "validation"]
OFTEN = ["ops", "features", "wrap_database_errors"]
KEEPERS: list[Callable[[], Any]] = [
    wrapper,
    closure,
    cursor,
    fetchone,
    rows,
    error,
    patched_cursor,
    weak_wrapper,
    weak_proxy,
    weak_method,
    attributes,
    shallow_copy,
    traceback_of_a_frame,
    own("on_commit"),
    own("queries_log"),
    own("execute_wrappers"),
    *map(own, RARE + OFTEN),
    *map(weak, OFTEN),
]


@pytest.mark.parametrize("keep", KEEPERS, ids=lambda keep: keep.__name__)
def test_a_wrapper_of_which_somebody_keeps_a_part_is_not_used_again(
    made: list[str], keep: Callable[[], Any]
) -> None:
    seen: list[int] = []

    def keeper() -> Any:
        use()
        seen.append(id(wrapper()))
        return keep()

    kept = in_thread(keeper)
    settle()

    def next_one() -> None:
        use()
        seen.append(id(wrapper()))

    in_thread(next_one)
    settle()
    assert len(made) == 2, kept
    # The next one's own goes on being used.
    in_thread(next_one)
    settle()
    assert len(made) == 2
    assert seen[1] == seen[2]
    del kept
    gc.collect()
    assert_whole()


@pytest.mark.parametrize("name", RARE)
def test_what_is_rarely_used_is_made_again_for_who_uses_it(made: list[str], name: str) -> None:
    def keeper() -> Any:
        use()
        assert getattr(wrapper(), name).connection is wrapper()
        return weak(name)()

    ref = in_thread(keeper)
    settle()
    assert ref() is None
    in_thread(keeper)
    settle()
    in_thread(use)
    assert made == ["default"]


def test_a_wrapper_is_used_again_once_what_kept_it_is_gone(made: list[str]) -> None:
    def keeper() -> Any:
        use()
        return wrapper()

    kept = in_thread(keeper)
    settle()
    del kept
    in_thread(use)
    assert made == ["default"]


def test_who_keeps_a_wrapper_has_it_as_that_of_a_plain_thread_that_has_ended(made: list[str]) -> None:
    def keeper() -> Any:
        use()
        mine = wrapper()
        mine.features.supports_over_clause = "patched"
        return mine, mine.ops, mine.features

    mine, ops, features = in_thread(keeper)
    settle()
    in_thread(use)
    settle()
    assert mine.ops is ops
    assert mine.features is features
    assert mine.features.supports_over_clause == "patched"
    assert mine.connection is None
    ident = mine._thread_ident
    assert ident != wrapper()._thread_ident
    with pytest.raises(DatabaseError, match="thread"):
        mine.cursor()
    mine.inc_thread_sharing()
    with mine.cursor() as opened:
        opened.execute("SELECT 1")
        assert opened.fetchone() == (1,)
    mine.close()
    mine.dec_thread_sharing()


def test_a_cursor_that_is_kept_reads_nothing_of_the_next_one(made: list[str]) -> None:
    def keeper() -> Any:
        opened = connection.cursor()
        opened.execute("SELECT 'mine'")
        return opened.cursor, opened

    inner, outer = in_thread(keeper)
    settle()

    def next_one() -> None:
        with connection.cursor() as opened:
            opened.execute("SELECT 'secret'")
            for stale in (inner, outer):
                with contextlib.suppress(Exception):
                    assert stale.fetchall() in ([], (), [("mine",)], (("mine",),))
                with contextlib.suppress(Exception):
                    stale.close()
            assert [tuple(row) for row in opened.fetchall()] == [("secret",)]

    in_thread(next_one)
    settle()
    assert_whole()


@pytest.mark.transaction_scope
def test_a_copy_of_a_wrapper_is_another_one(made: list[str]) -> None:
    def keeper() -> Any:
        use()
        mine = wrapper().copy()
        with mine.cursor() as opened:
            opened.execute("SELECT 1")
        return mine

    kept = in_thread(keeper)
    settle()

    def next_one() -> bool:
        use()
        return wrapper() is kept

    assert not in_thread(next_one)
    settle()
    assert made == ["default"]
    with pytest.raises(DatabaseError, match="thread"):
        kept.cursor()


def test_nobody_keeps_a_wrapper_that_no_thread_would_take(made: list[str]) -> None:
    """That of a copy, and that of settings which have changed meanwhile."""
    used, changed = threading.Event(), threading.Event()

    def copied() -> Any:
        use()
        mine = wrapper().copy()
        mine.settings_dict["CONN_MAX_AGE"] = 17
        with mine.cursor() as opened:
            opened.execute("SELECT 1")
        return weakref.ref(mine)

    def outdated(alias: str) -> Any:
        one(alias)
        used.set()
        assert changed.wait(PATIENCE)
        return weakref.ref(connections[alias])

    def change(alias: str) -> None:
        assert used.wait(PATIENCE)
        connections.settings[alias]["CONN_MAX_AGE"] = 17
        for pool in registry.pools(alias):
            pool.retire_outdated()
        changed.set()

    of_copy = in_thread(copied)
    eventually(lambda: of_copy() is None)
    with another_alias() as alias:
        ref, _ = in_threads([lambda: outdated(alias), lambda: change(alias)])
        eventually(lambda: ref() is None)
        in_thread(lambda: one(alias))
        identity = registry.by_alias[alias].current
        assert identity is not None
        assert len(identity.spare_wrappers) == 1
        connections.settings[alias]["CONN_MAX_AGE"] = 18
        registry.by_alias[alias].retire_outdated()
        assert identity.spare_wrappers == []


# -- what is left behind ----------------------------------------------------------------------------


def execute_wrapper() -> None:
    wrapper().execute_wrappers.append(lambda execute, *arguments: execute(*arguments))


def hook() -> None:
    wrapper().run_on_commit.append((set(), print, False))


def debug_cursor() -> None:
    wrapper().force_debug_cursor = True


def shared() -> None:
    wrapper().inc_thread_sharing()


def foreign_attribute() -> None:
    wrapper()._djdt_logger = object()


def patched_method() -> None:
    wrapper().chunked_cursor = None


def another_helper() -> None:
    class Ops(type(wrapper().ops)):  # type: ignore[misc]
        pass

    wrapper().ops = Ops(wrapper())


def needs_rollback() -> None:
    wrapper().needs_rollback = True


def commit_hooks_due() -> None:
    wrapper().run_commit_hooks_on_set_autocommit_on = True


def depth() -> None:
    wrapper()._depth = 1


def savepoint() -> None:
    wrapper().savepoint_ids.append("s1")


def block() -> None:
    wrapper().atomic_blocks.append(object())


def last_error() -> None:
    wrapper().rollback_exc = ValueError()


def other_settings() -> None:
    wrapper().settings_dict = dict(wrapper().settings_dict)


def awaited() -> None:
    wrapper()._vacant = AWAITED


LEFT: list[Callable[[], None]] = [
    execute_wrapper,
    hook,
    debug_cursor,
    shared,
    foreign_attribute,
    patched_method,
    another_helper,
    needs_rollback,
    commit_hooks_due,
    depth,
    awaited,
    savepoint,
    block,
    last_error,
    other_settings,
]


@pytest.mark.parametrize("leave", LEFT, ids=lambda leave: leave.__name__)
def test_what_is_left_behind_keeps_a_wrapper_from_the_next(
    made: list[str], leave: Callable[[], None]
) -> None:
    def leaving() -> None:
        use()
        connection.close()
        leave()

    for _ in range(3):
        in_thread(use)
        settle()
    assert made == ["default"]
    in_thread(leaving)
    settle()
    in_thread(use)
    assert len(made) == 2


def test_an_attribute_in_the_place_of_another_is_seen(made: list[str]) -> None:
    def with_time_zone() -> None:
        use()
        assert wrapper().timezone_name

    def leaving() -> None:
        use()
        del vars(wrapper())["timezone_name"]
        foreign_attribute()

    for work in (with_time_zone, with_time_zone, with_time_zone, leaving):
        in_thread(work)
        settle()
    assert made == ["default"]
    in_thread(use)
    assert len(made) == 2


def test_nothing_of_what_is_let_go_waits_for_the_garbage_collector(made: list[str]) -> None:
    def alive() -> int:
        # isinstance() would ask objects that are lazy.
        return sum(issubclass(type(one), PooledWrapper) for one in gc.get_objects())

    def leaving() -> None:
        use()
        foreign_attribute()

    in_thread(use)
    settle()
    before = alive()
    for _ in range(5):
        in_thread(leaving)
        settle()
    assert len(made) == 5
    assert alive() == before


@override_settings(DEBUG=True)
def test_the_log_of_queries_is_empty_for_the_next(made: list[str]) -> None:
    def work() -> int:
        reset_queries()
        return len(connection.queries)

    def log() -> int:
        before = len(wrapper().queries_log)
        use()
        assert connection.queries
        return before

    assert [in_thread(log), settle(), in_thread(log)][::2] == [0, 0]
    assert made == ["default"]
    assert in_thread(work) == 0


def test_a_change_of_the_time_zone_reaches_the_next(made: list[str]) -> None:
    def zone() -> Any:
        use()
        return connection.timezone_name

    assert in_thread(zone) == "UTC"
    settle()
    with override_settings(USE_TZ=False, TIME_ZONE="Asia/Tokyo"):
        assert in_thread(zone) == "Asia/Tokyo"
        settle()
    assert in_thread(zone) == "UTC"


@pytest.mark.only("sqlite3")
def test_a_mode_that_somebody_has_set_is_not_the_next_one_s(made: list[str]) -> None:
    """Also where the pool has forgotten meanwhile what it knew of the server."""

    def set_mode() -> None:
        use()
        wrapper().transaction_mode = "EXCLUSIVE"

    def mode() -> Any:
        before = getattr(wrapper(), "transaction_mode", None)
        use()
        return before, wrapper().transaction_mode

    for forget in (pooling.recycle, settle):
        in_thread(set_mode)
        settle()
        forget()
        assert in_thread(mode) == (None, None)
        settle()


def test_settings_that_were_replaced_reach_the_next() -> None:
    with another_alias() as alias:
        in_thread(lambda: one(alias))
        before = connections.settings[alias]
        connections.settings[alias] = before | {"CONN_MAX_AGE": 17}
        try:
            assert in_thread(lambda: connections[alias].settings_dict["CONN_MAX_AGE"]) == 17
        finally:
            connections.settings[alias] = before


def test_another_handler_with_the_same_alias_has_wrappers_of_its_own_settings(made: list[str]) -> None:
    in_thread(use)
    settle()
    other = ConnectionHandler({"default": dict(connections.settings["default"], CONN_MAX_AGE=17)})
    assert other["default"].settings_dict["CONN_MAX_AGE"] == 17
    del other["default"]


def test_an_alias_that_is_gone_has_no_wrapper() -> None:
    with another_alias() as alias:
        in_thread(lambda: one(alias))
        eventually(lambda: pooling.stats(alias).in_use == 0)
        before = connections.settings.pop(alias)
        try:
            with pytest.raises(Exception, match="doesn't exist"):
                in_thread(lambda: one(alias))
        finally:
            connections.settings[alias] = before


def test_after_unpatch_wrappers_are_plain(made: list[str]) -> None:
    in_thread(use)
    settle()
    pooling.unpatch()
    try:
        with plain() as expected:
            cls = type(expected)
        assert in_thread(lambda: type(wrapper())) is cls
    finally:
        pooling.patch()


# -- shared, killed, forked -------------------------------------------------------------------------


def test_a_wrapper_that_another_thread_shares_stays_that_of_its_own(made: list[str]) -> None:
    """As with LiveServerTestCase: the server's thread uses that of the test, and ends before that."""
    mine = wrapper()
    mine.inc_thread_sharing()

    def server() -> None:
        connections["default"] = mine
        token()

    try:
        for _ in range(2):
            in_thread(server)
        token()
        ops = mine.ops

        def other() -> bool:
            use()
            return wrapper() is mine

        assert not any(in_threads([other, other, other]))
        assert mine.ops is ops
        assert wrapper() is mine
        token()
    finally:
        mine.dec_thread_sharing()


@pytest.mark.parametrize("possible", [True, False])
def test_a_wrapper_that_is_shared_keeps_what_it_has_when_its_own_thread_ends(
    made: list[str], monkeypatch: pytest.MonkeyPatch, possible: bool
) -> None:
    monkeypatch.setattr(reuse, "IS_POSSIBLE", possible)

    def share() -> Any:
        use()
        connection.close()
        mine = wrapper()
        mine.inc_thread_sharing()
        return mine, mine.ops

    mine, ops = in_thread(share)
    in_thread(use)
    assert mine.ops is ops
    with mine.cursor() as opened:
        opened.execute("SELECT 1")
    mine.close()
    mine.dec_thread_sharing()


@pytest.mark.only("gevent")
@pytest.mark.parametrize("scope", ["request", "transaction"])
def test_greenlets_that_are_killed_anywhere_leave_nothing(made: list[str], scope: str) -> None:
    """Before, in and after a statement, in atomic() and in its end; whoever comes next sees nothing of it."""
    import gevent

    def victim(number: int) -> None:
        request_started()
        with pooling.scope(scope):
            token()
            with transaction.atomic():
                Note.objects.create(text=f"{number}")
                token()
                Note.objects.create(text=f"{number}")
            token()

    def survivor() -> None:
        mine = wrapper()
        assert (mine.in_atomic_block, mine.connection, mine.run_on_commit) == (False, None, [])
        assert mine._thread_ident == threading.get_ident()
        use()

    for number in range(150):
        greenlet = gevent.spawn(victim, number)
        gevent.sleep(0.0001 * (number % 50))
        greenlet.kill()
        # What has ended it refers to its frames.
        del greenlet
        in_thread(survivor)
    settle()
    texts = committed()
    assert all(texts.count(text) == 2 for text in texts)
    assert len(made) < 30
    assert_whole()


@pytest.mark.parametrize("fork", [None, silent_fork], ids=["fork", "silent_fork"])
def test_a_child_makes_wrappers_of_its_own(made: list[str], fork: Callable[[], int] | None) -> None:
    in_thread(use)
    settle()
    connection.close()

    def child() -> list[str]:
        del made[:]
        in_thread(use)
        eventually(lambda: pooling.stats("default").in_use == 0)
        in_thread(use)
        return made

    assert in_child(child, fork) == ["default"]
    in_thread(use)
    assert made == ["default"]


def test_what_is_spare_is_bounded(made: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reuse, "MAX_SPARE", 2)
    pooling.set_pool_size(4, max_outstanding=4)
    together = threading.Barrier(4)

    def work() -> None:
        token()
        together.wait(PATIENCE)

    for _ in range(2):
        in_threads([work] * 4)
        settle()
    assert len(made) == 6
