"""Transaction scope with the rest of Django: views, streams, checks, procedures, locks, forks, kills."""

from __future__ import annotations

import ctypes
import gc
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import pytest
from django.core.handlers.wsgi import WSGIHandler
from django.db import (
    DatabaseError,
    Error,
    IntegrityError,
    OperationalError,
    connection,
    connections,
    reset_queries,
    transaction,
)
from django.db.models.expressions import RawSQL
from django.db.transaction import TransactionManagementError
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import Client, RequestFactory, TransactionTestCase, override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import path

from django_db_pooling import drivers, pooling
from tests.behaviour.conftest import (
    DRIVER,
    GEVENT,
    MYSQL,
    PATIENCE,
    POSTGRESQL,
    another_alias,
    assert_whole,
    committed,
    eventually,
    held,
    in_thread,
    in_threads,
    one,
    plain,
    request_finished,
    request_started,
    server_id,
    sql,
    token,
)
from tests.behaviour.models import Note
from tests.behaviour.observer import Observer
from tests.behaviour.test_fork import child_with_its_own_connection, complaints
from tests.behaviour.test_interrupts import MOST_SWITCHES, Interruption
from tests.behaviour.test_patch import in_child
from tests.proxy import TcpProxy

pytestmark = pytest.mark.transaction_scope

servers = pytest.mark.only("pymysql", "mysqlclient", "psycopg", "psycopg2")
# mysqlclient lets no other greenlet run while it waits for the server.
cooperative = pytest.mark.never("mysqlclient", "gevent")

POOL = {"SCOPE": "transaction", "SIZE": 2, "MAX_OUTSTANDING": 4}

# What views and hooks have to say.
told: list[Any] = []


@pytest.fixture(autouse=True)
def nothing_told() -> None:
    told.clear()


def add(text: str, using: str = "default") -> None:
    Note.objects.using(using).create(text=text)


def texts(using: str = "default") -> list[str]:
    return list(Note.objects.using(using).order_by("id").values_list("text", flat=True))


def in_use(using: str = "default") -> int:
    return pooling.stats(using).in_use


def checkouts(using: str = "default") -> int:
    return pooling.stats(using).checkouts


@contextmanager
def brief(**changes: Any) -> Iterator[str]:
    """An alias with transaction scope also in requests."""
    with another_alias(**({"POOL": POOL} | changes)) as alias:
        yield alias


@contextmanager
def unpooled(**changes: Any) -> Iterator[str]:
    """An alias whose wrapper is Django's own, which no pool knows."""
    with another_alias(**changes) as alias, plain(alias) as wrapper:
        connections[alias] = wrapper
        yield alias


@contextmanager
def request() -> Iterator[None]:
    request_started()
    try:
        yield
    finally:
        request_finished()


# -- views -------------------------------------------------------------------------------------------


def add_and_tell(request: HttpRequest) -> HttpResponse:
    alias = request.GET["using"]
    before = in_use(alias)
    transaction.on_commit(lambda: told.append((in_use(alias), texts(alias), in_use(alias))), using=alias)
    add("view", alias)
    return HttpResponse(f"{before} {in_use(alias)} {len(committed())}")


def add_and_raise(request: HttpRequest) -> HttpResponse:
    transaction.on_commit(lambda: told.append("never"), using=request.GET["using"])
    add("view", request.GET["using"])
    raise ZeroDivisionError


def raise_only(request: HttpRequest) -> HttpResponse:
    raise ZeroDivisionError


def add_and_set_rollback(request: HttpRequest) -> HttpResponse:
    add("view", request.GET["using"])
    transaction.set_rollback(True, using=request.GET["using"])
    return HttpResponse("gone")


def add_and_answer_500(request: HttpRequest) -> HttpResponse:
    add("view", request.GET["using"])
    return HttpResponse("an answer like any other", status=500)


def add_and_release(request: HttpRequest) -> HttpResponse:
    add("view", request.GET["using"])
    pooling.release(request.GET["using"])
    return HttpResponse("refused")


def non_atomic(request: HttpRequest) -> HttpResponse:
    """Of its test's alias."""
    return add_and_raise(request) if "raise" in request.GET else add_and_tell(request)


def nothing(request: HttpRequest) -> HttpResponse:
    return HttpResponse("no query")


def stream(chunks: Callable[[str], Iterable[str]]) -> Callable[[HttpRequest], StreamingHttpResponse]:
    def view(request: HttpRequest) -> StreamingHttpResponse:
        alias = request.GET["using"]
        if "first" in request.GET:
            add(request.GET["first"], alias)
        return StreamingHttpResponse(chunks(alias))

    return view


def of_statements(alias: str) -> Iterator[str]:
    """Each in autocommit."""
    for number in range(3):
        add(f"chunk {number}", alias)
        yield f"{Note.objects.using(alias).count()} "


def of_a_queryset(alias: str) -> Iterator[str]:
    for note in Note.objects.using(alias).order_by("id").iterator(chunk_size=1):
        yield f"{note.text} "
    yield "end"


def of_a_block(alias: str) -> Iterator[str]:
    yield "before "
    with transaction.atomic(using=alias):
        transaction.on_commit(lambda: told.append("hook"), using=alias)
        yield "entered "
        for number in range(3):
            add(f"chunk {number}", alias)
            yield f"{number} "
    yield "after"


def of_a_failure(alias: str) -> Iterator[str]:
    with transaction.atomic(using=alias):
        add("never", alias)
        yield "begun "
        raise ZeroDivisionError


urlpatterns = [
    path("add", add_and_tell),
    path("raise", add_and_raise),
    path("raise-only", raise_only),
    path("set-rollback", add_and_set_rollback),
    path("answer-500", add_and_answer_500),
    path("release", add_and_release),
    path("non-atomic", non_atomic),
    path("nothing", nothing),
    path("stream/statements", stream(of_statements)),
    path("stream/queryset", stream(of_a_queryset)),
    path("stream/block", stream(of_a_block)),
    path("stream/failure", stream(of_a_failure)),
]


@pytest.fixture
def views() -> Iterator[None]:
    with override_settings(ROOT_URLCONF=__name__):
        yield


def asking_around(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[..., HttpResponse]:
    """A middleware that queries before and after the view."""

    def middleware(request: HttpRequest) -> HttpResponse:
        alias = request.GET["using"]
        one(alias)
        told.append(in_use(alias))
        response = get_response(request)
        told.append((in_use(alias), len(texts(alias)), in_use(alias)))
        return response

    return middleware


class Served:
    """A request as a WSGI server makes it, which keeps the environ and closes the response."""

    def __init__(self, url: str, **query: str) -> None:
        self.status = ""
        self._environ = RequestFactory().get(url, query).environ
        self._response: Any = WSGIHandler()(self._environ, self._start)
        self.chunks: Iterator[bytes] = iter(self._response)

    def _start(self, status: str, headers: Any, exc_info: Any = None) -> None:
        self.status = status

    def close(self) -> None:
        self._response.close()


def through_wsgi(url: str, **query: str) -> tuple[int, str]:
    served = Served(url, **query)
    body = b"".join(served.chunks).decode()
    served.close()
    return int(served.status[:3]), body


def through_the_client(url: str, **query: str) -> tuple[int, str]:
    response = Client(raise_request_exception=False).get(url, query)
    return response.status_code, response.getvalue().decode()


Ask = Callable[..., tuple[int, str]]
both_ways = [
    pytest.mark.usefixtures("views"),
    pytest.mark.parametrize("ask", [through_the_client, through_wsgi]),
]


def marked(marks: list[pytest.MarkDecorator]) -> Callable[[Any], Any]:
    def mark(function: Any) -> Any:
        for one_mark in marks:
            function = one_mark(function)
        return function

    return mark


# -- ATOMIC_REQUESTS ---------------------------------------------------------------------------------


@marked(both_ways)
def test_an_atomic_view_holds_from_its_first_statement_to_its_end_and_nothing_in_its_hooks(ask: Ask) -> None:
    with brief(ATOMIC_REQUESTS=True) as alias:
        assert ask("/add", using=alias) == (200, "0 1 0")
        assert told == [(0, ["view"], 0)]
        assert in_use(alias) == 0
    assert committed() == ["view"]


@marked(both_ways)
def test_an_atomic_view_that_raises_is_rolled_back(ask: Ask) -> None:
    with brief(ATOMIC_REQUESTS=True) as alias:
        assert ask("/raise", using=alias)[0] == 500
        assert in_use(alias) == 0
        assert ask("/add", using=alias) == (200, "0 1 0")
    assert committed() == ["view"]
    assert told == [(0, ["view"], 0)]


@marked(both_ways)
@pytest.mark.parametrize("url", ["/nothing", "/raise-only"])
def test_an_atomic_view_that_never_queries_takes_no_connection(ask: Ask, url: str) -> None:
    with brief(ATOMIC_REQUESTS=True) as alias:
        assert ask(url, using=alias)[0] in (200, 500)
        assert checkouts(alias) == 0
        assert not connections[alias].in_atomic_block


@pytest.mark.usefixtures("views")
def test_set_rollback_in_an_atomic_view() -> None:
    with brief(ATOMIC_REQUESTS=True) as alias:
        assert through_wsgi("/set-rollback", using=alias) == (200, "gone")
        assert in_use(alias) == 0
    assert committed() == []


@pytest.mark.usefixtures("views")
def test_an_answer_of_500_is_committed_as_in_django() -> None:
    with brief(ATOMIC_REQUESTS=True) as alias:
        assert through_wsgi("/answer-500", using=alias)[0] == 500
        assert in_use(alias) == 0
    assert committed() == ["view"]


@pytest.mark.usefixtures("views")
def test_release_is_refused_in_an_atomic_view() -> None:
    with brief(ATOMIC_REQUESTS=True) as alias:
        assert through_wsgi("/release", using=alias)[0] == 500
        assert in_use(alias) == 0
    assert committed() == []


@marked(both_ways)
def test_non_atomic_requests_hold_nothing_between_statements(ask: Ask) -> None:
    with brief(ATOMIC_REQUESTS=True) as alias:
        transaction.non_atomic_requests(using=alias)(non_atomic)
        assert ask("/non-atomic", using=alias) == (200, "0 0 1")
        # Without a block a hook runs at once.
        assert told == [(0, [], 0)]
        assert ask("/non-atomic", using=alias, **{"raise": "yes"})[0] == 500
        assert in_use(alias) == 0
    assert committed() == ["view", "view"]


@marked(both_ways)
def test_a_middleware_around_an_atomic_view_is_outside_of_its_block(ask: Ask) -> None:
    with (
        brief(ATOMIC_REQUESTS=True) as alias,
        override_settings(MIDDLEWARE=[f"{__name__}.asking_around"]),
    ):
        assert ask("/add", using=alias) == (200, "0 1 0")
        assert told == [0, (0, ["view"], 0), (0, 1, 0)]
        assert ask("/raise", using=alias)[0] == 500
        assert told[3:] == [0, (0, 1, 0)]


@pytest.mark.usefixtures("views")
def test_atomic_requests_of_two_aliases_each_have_their_own_block() -> None:
    with brief(ATOMIC_REQUESTS=True) as alias, brief(ATOMIC_REQUESTS=True) as other:
        assert through_wsgi("/add", using=alias) == (200, "0 1 0")
        assert through_wsgi("/add", using=other) == (200, "0 1 1")
        assert (checkouts(alias), checkouts(other)) == (2, 2)  # With the hook's.
        assert through_wsgi("/raise", using=other)[0] == 500
        assert (in_use(alias), in_use(other)) == (0, 0)
    assert committed() == ["view", "view"]


@pytest.mark.usefixtures("views")
def test_atomic_views_at_the_same_time_are_served_by_fewer_connections() -> None:
    rows = DRIVER != "sqlite3"
    with brief(ATOMIC_REQUESTS=True) as alias:

        def visit() -> None:
            for _ in range(4):
                if rows:
                    assert through_wsgi("/add", using=alias)[0] == 200
                    assert through_wsgi("/raise", using=alias)[0] == 500
                assert through_wsgi("/nothing", using=alias) == (200, "no query")

        in_threads([visit] * 8)
        assert in_use(alias) == 0
        assert pooling.stats(alias).opened <= 4
    assert len(committed()) == (32 if rows else 0)
    assert "never" not in told


# -- streams -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("views")
@pytest.mark.parametrize("is_atomic", [False, True])
def test_a_stream_of_statements_holds_nothing_between_its_chunks(is_atomic: bool) -> None:
    with brief(ATOMIC_REQUESTS=is_atomic) as alias:
        served = Served("/stream/statements", using=alias, first="view")
        assert in_use(alias) == 0
        # The view's block has ended; what is streamed is in autocommit.
        assert committed() == ["view"]
        for number in range(3):
            assert next(served.chunks) == f"{number + 2} ".encode()
            assert in_use(alias) == 0
            assert len(committed()) == number + 2
        assert list(served.chunks) == []
        served.close()
        assert in_use(alias) == 0


@pytest.mark.usefixtures("views")
@pytest.mark.parametrize("is_atomic", [False, True])
def test_a_stream_of_a_queryset_holds_until_its_last_row(is_atomic: bool) -> None:
    with brief(ATOMIC_REQUESTS=is_atomic) as alias:
        for text in "abc":
            add(text, alias)
        served = Served("/stream/queryset", using=alias)
        assert in_use(alias) == 0
        for text in "abc":
            assert next(served.chunks) == f"{text} ".encode()
            assert in_use(alias) == 1
        assert next(served.chunks) == b"end"
        assert in_use(alias) == 0
        served.close()
        assert in_use(alias) == 0


@pytest.mark.usefixtures("views")
@pytest.mark.parametrize("is_atomic", [False, True])
def test_a_stream_with_a_block_holds_from_its_first_statement_to_its_end(is_atomic: bool) -> None:
    with brief(ATOMIC_REQUESTS=is_atomic) as alias:
        served = Served("/stream/block", using=alias)
        seen = [(chunk, in_use(alias)) for chunk in served.chunks]
        assert seen == [
            (b"before ", 0),
            (b"entered ", 0),
            (b"0 ", 1),
            (b"1 ", 1),
            (b"2 ", 1),
            (b"after", 0),
        ]
        served.close()
        assert told == ["hook"]
        assert in_use(alias) == 0
    assert committed() == ["chunk 0", "chunk 1", "chunk 2"]


@pytest.mark.usefixtures("views")
@pytest.mark.parametrize(
    ("url", "chunks", "left", "is_atomic"),
    [
        ("/stream/statements", 0, [], False),
        ("/stream/statements", 2, ["chunk 0", "chunk 1"], False),
        ("/stream/statements", 2, ["chunk 0", "chunk 1"], True),
        ("/stream/queryset", 2, [], False),
        ("/stream/queryset", 2, [], True),
        ("/stream/block", 0, [], False),
        ("/stream/block", 2, [], True),
        ("/stream/block", 4, [], False),
        ("/stream/block", 4, [], True),
    ],
)
def test_a_stream_that_is_closed_half_way_holds_nothing_afterwards(
    url: str, chunks: int, left: list[str], is_atomic: bool
) -> None:
    with brief(ATOMIC_REQUESTS=is_atomic) as alias:
        if url == "/stream/queryset":
            for text in "abcd":
                add(text, alias)
            left = [*"abcd"]
        served = Served(url, using=alias)
        for _ in range(chunks):
            next(served.chunks)
        served.close()
        assert in_use(alias) == 0
        assert not connections[alias].in_atomic_block
        assert told == []
        assert committed() == left
        # The next request of this thread finds everything as new.
        assert through_wsgi("/stream/statements", using=alias)[1].split()[0] == str(len(left) + 1)
        assert in_use(alias) == 0
        assert pooling.stats(alias).reclaimed == 0


@pytest.mark.usefixtures("views")
def test_a_stream_that_fails_rolls_its_block_back() -> None:
    with brief() as alias:
        served = Served("/stream/failure", using=alias)
        assert next(served.chunks) == b"begun "
        assert in_use(alias) == 1
        with pytest.raises(ZeroDivisionError):
            next(served.chunks)
        assert in_use(alias) == 0
        served.close()
    assert committed() == []


@pytest.mark.usefixtures("views")
def test_a_stream_that_its_server_drops_without_closing_it_holds_nothing() -> None:
    with brief() as alias:
        served = Served("/stream/block", using=alias)
        for _ in range(4):
            next(served.chunks)
        assert in_use(alias) == 1
        del served
        gc.collect()
        eventually(lambda: in_use(alias) == 0)
    assert committed() == []


@pytest.mark.usefixtures("views")
def test_the_test_client_reads_a_stream_to_its_end() -> None:
    with brief() as alias:
        assert through_the_client("/stream/statements", using=alias) == (200, "1 2 3 ")
        assert through_the_client("/stream/block", using=alias) == (200, "before entered 0 1 2 after")
        assert through_the_client("/stream/queryset", using=alias)[1].endswith("end")
        assert in_use(alias) == 0


@pytest.mark.usefixtures("views")
def test_more_streams_than_connections_are_open_at_the_same_time() -> None:
    with brief() as alias:
        streams = [Served("/stream/statements", using=alias) for _ in range(8)]
        for served in streams:
            next(served.chunks)
        assert in_use(alias) == 0
        for served in streams:
            assert len(list(served.chunks)) == 2
        for served in reversed(streams):
            served.close()
        assert in_use(alias) == 0
        assert pooling.stats(alias).opened == 1


# -- CONN_HEALTH_CHECKS ------------------------------------------------------------------------------


def read_rows(alias: str) -> None:
    assert texts(alias) == []


def read_in_a_block(alias: str) -> None:
    with transaction.atomic(using=alias):
        assert texts(alias) == []
        with transaction.atomic(using=alias):
            token(alias)


def read_an_iterator(alias: str) -> None:
    assert list(Note.objects.using(alias).iterator(chunk_size=1)) == []


def read_by_hand(alias: str) -> None:
    transaction.set_autocommit(False, using=alias)
    for _ in range(2):
        token(alias)
        transaction.rollback(using=alias)
    transaction.set_autocommit(True, using=alias)


def read_with_a_cursor(alias: str) -> None:
    with connections[alias].cursor() as cursor:
        for _ in range(3):
            cursor.execute("SELECT 1")
            assert cursor.fetchall()


ways_to_read = pytest.mark.parametrize(
    "read", [read_rows, read_in_a_block, read_an_iterator, read_by_hand, read_with_a_cursor]
)


@servers
@ways_to_read
@pytest.mark.parametrize("in_a_request", [True, False])
def test_with_health_checks_a_connection_killed_while_idle_is_replaced_without_an_error(
    read: Callable[[str], None], in_a_request: bool, observer: Observer
) -> None:
    with brief(CONN_HEALTH_CHECKS=True) as alias:
        for _ in range(2):
            one(alias)
            observer.kill()
            eventually(lambda: observer.count() == 0)
            if in_a_request:
                with request():
                    read(alias)
            else:
                read(alias)
            assert in_use(alias) == 0
        assert pooling.stats(alias).opened == 3


@servers
def test_with_health_checks_a_block_survives_a_kill_before_its_first_statement(observer: Observer) -> None:
    with brief(CONN_HEALTH_CHECKS=True) as alias:
        one(alias)
        with transaction.atomic(using=alias):
            transaction.on_commit(lambda: told.append("hook"), using=alias)
            observer.kill()
            eventually(lambda: observer.count() == 0)
            add("a", alias)
        assert in_use(alias) == 0
    assert (committed(), told) == (["a"], ["hook"])


@ways_to_read
@pytest.mark.parametrize("in_a_request", [True, False])
def test_with_health_checks_the_server_is_asked_once_per_checkout(
    read: Callable[[str], None], in_a_request: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver: Any = drivers.find(connection.Database)
    usable = driver.usable

    def counted(*arguments: Any) -> bool:
        told.append("asked")
        return bool(usable(*arguments))

    with brief(CONN_HEALTH_CHECKS=True) as alias:
        one(alias)
        monkeypatch.setattr(driver, "usable", counted)
        for turn in range(1, 4):
            before = checkouts(alias)
            if in_a_request:
                with request():
                    read(alias)
            else:
                read(alias)
            assert checkouts(alias) - before == 1
            assert len(told) == turn


@pytest.mark.only("pymysql", "mysqlclient")
def test_with_health_checks_the_server_counts_one_ping_per_checkout() -> None:
    def pings(alias: str) -> int:
        return int(sql("SHOW SESSION STATUS LIKE 'Com_admin_commands'", using=alias)[0][1])

    with brief(CONN_HEALTH_CHECKS=True) as alias:
        before = pings(alias)
        assert pings(alias) == before + 1
        read_in_a_block(alias)
        assert pings(alias) == before + 3
        read_by_hand(alias)
        assert pings(alias) == before + 5
        assert pooling.stats(alias).opened == 1


# -- procedures, many rows, cursors ----------------------------------------------------------------------


if MYSQL:
    PROCEDURES = {
        "PROCEDURE behaviour_add": """(what VARCHAR(100)) BEGIN
            INSERT INTO behaviour_note (text) VALUES (what); SELECT COUNT(*) FROM behaviour_note; END""",
        "PROCEDURE behaviour_change": "() SET @mine = 'mine'",
        "PROCEDURE behaviour_begin": """() BEGIN
            START TRANSACTION; INSERT INTO behaviour_note (text) VALUES ('never'); END""",
        "FUNCTION behaviour_twice": "(what INT) RETURNS INT DETERMINISTIC RETURN 2 * what",
    }
    CHANGED = "SELECT @mine"
else:
    PROCEDURES = {
        "FUNCTION behaviour_add": """(what text) RETURNS bigint LANGUAGE sql AS
            'INSERT INTO behaviour_note (text) VALUES ($1); SELECT count(*) FROM behaviour_note'""",
        "FUNCTION behaviour_change": """() RETURNS text LANGUAGE sql AS
            $$ SELECT set_config('application_name', 'mine', false) $$""",
        "PROCEDURE behaviour_put": """(what text) LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO behaviour_note (text) VALUES (what); COMMIT;
            INSERT INTO behaviour_note (text) VALUES ('never'); ROLLBACK; END $$""",
        "FUNCTION behaviour_twice": "(what integer) RETURNS integer LANGUAGE sql AS 'SELECT 2 * $1'",
    }
    CHANGED = "SELECT current_setting('application_name')"


@pytest.fixture
def procedures() -> Iterator[None]:
    with plain() as wrapper, wrapper.cursor() as cursor:
        for name, body in PROCEDURES.items():
            cursor.execute(f"DROP {name.split()[0]} IF EXISTS {name.split()[1]}")
            cursor.execute(f"CREATE {name} {body}")
    yield
    with plain() as wrapper, wrapper.cursor() as cursor:
        for name in PROCEDURES:
            cursor.execute(f"DROP {name}")


def call(procedure: str, *params: Any, using: str) -> list[Any]:
    with connections[using].cursor() as cursor:
        cursor.callproc(procedure, params)
        return list(cursor.fetchall()) if cursor.description else []


@servers
@pytest.mark.usefixtures("procedures")
def test_callproc_answers_and_its_connection_is_kept_to_the_end_of_the_request() -> None:
    with brief() as alias:
        with request():
            assert call("behaviour_add", "a", using=alias) == [(1,)]
            assert in_use(alias) == 1
            token(alias)
            assert call("behaviour_add", "b", using=alias) == [(2,)]
            token(alias)
            assert committed() == ["a", "b"]
            assert in_use(alias) == 1
        assert in_use(alias) == 0
        token(alias)
        assert in_use(alias) == 0


@servers
@pytest.mark.usefixtures("procedures")
def test_callproc_belongs_to_its_block() -> None:
    with brief() as alias, request():
        with pytest.raises(ZeroDivisionError), transaction.atomic(using=alias):
            assert call("behaviour_add", "never", using=alias) == [(1,)]
            assert committed() == []
            raise ZeroDivisionError
        assert committed() == []
        with transaction.atomic(using=alias):
            call("behaviour_add", "a", using=alias)
        assert committed() == ["a"]
        token(alias)


@servers
@pytest.mark.usefixtures("procedures")
def test_callproc_that_changes_the_session_is_seen_by_its_request_and_by_nobody_else() -> None:
    with brief() as alias:
        untouched = sql(CHANGED, using=alias)
        with request():
            call("behaviour_change", using=alias)
            assert sql(CHANGED, using=alias) == [("mine",)]
            with transaction.atomic(using=alias):
                assert sql(CHANGED, using=alias) == [("mine",)]
            assert in_use(alias) == 1
        for _ in range(2):
            assert sql(CHANGED, using=alias) == untouched
        assert in_use(alias) == 0


@servers
@pytest.mark.usefixtures("procedures")
def test_callproc_with_the_result_left_unread_answers_nobody_else() -> None:
    with brief() as alias:
        with request():
            cursor = connections[alias].cursor()
            cursor.callproc("behaviour_add", ("a",))
            del cursor
            gc.collect()
            with suppress(Error):
                # PyMySQL's connection is in the middle of a result then, as it would be in plain Django.
                token(alias)
        with request():
            token(alias)
        assert in_use(alias) == 0
    assert_whole()


@pytest.mark.only("pymysql", "mysqlclient")
@pytest.mark.usefixtures("procedures")
def test_a_transaction_that_a_procedure_begins_is_rolled_back_at_the_end_of_the_request() -> None:
    with brief() as alias:
        with request():
            call("behaviour_begin", using=alias)
            assert in_use(alias) == 1
            assert texts(alias) == ["never"]
            assert committed() == []
        assert in_use(alias) == 0
        assert texts(alias) == []


@pytest.mark.only("psycopg", "psycopg2")
@pytest.mark.usefixtures("procedures")
def test_a_procedure_that_commits_by_itself() -> None:
    with brief() as alias:
        with request():
            sql("CALL behaviour_put(%s)", "a", using=alias)
            assert texts(alias) == ["a"]
        assert in_use(alias) == 0
        with pytest.raises(DatabaseError), transaction.atomic(using=alias):
            sql("CALL behaviour_put(%s)", "b", using=alias)
        assert texts(alias) == ["a"]
    assert committed() == ["a"]


@servers
@pytest.mark.usefixtures("procedures")
def test_a_function_in_a_select_holds_nothing() -> None:
    assert sql("SELECT behaviour_twice(21)") == [(42,)]
    assert in_use() == 0


INSERT = "INSERT INTO behaviour_note (text) VALUES (%s)"


def add_many(many: Iterable[Any], using: str = "default") -> None:
    with connections[using].cursor() as cursor:
        cursor.executemany(INSERT, [(text,) for text in many])


def test_executemany_outside_of_a_block_holds_nothing_afterwards() -> None:
    add_many("abc")
    assert in_use() == 0
    assert committed() == [*"abc"]
    add_many([])
    assert in_use() == 0


def test_executemany_in_a_block_belongs_to_it() -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        add_many("never")
        assert in_use() == 1
        raise ZeroDivisionError
    assert (in_use(), committed()) == (0, [])
    with transaction.atomic():
        add_many("ab")
        assert committed() == []
        add_many("c")
    assert (in_use(), committed()) == (0, [*"abc"])


def test_executemany_that_fails_in_a_block_leaves_nothing() -> None:
    with pytest.raises(DatabaseError), transaction.atomic():
        add("never")
        add_many(["never", None])
    assert (in_use(), committed()) == (0, [])
    with pytest.raises(DatabaseError):
        add_many([None])
    assert in_use() == 0
    add("a")
    assert committed() == ["a"]


@servers
def test_executemany_that_changes_the_session_pins() -> None:
    change = "SET @mine = %s" if MYSQL else "SELECT set_config('application_name', %s, false)"
    with brief() as alias:
        untouched = sql(CHANGED, using=alias)
        with request():
            with connections[alias].cursor() as cursor:
                cursor.executemany(change, [("first",), ("mine",)])
            assert in_use(alias) == 1
            assert sql(CHANGED, using=alias) == [("mine",)]
        assert in_use(alias) == 0
        assert sql(CHANGED, using=alias) == untouched


def test_a_cursor_as_a_context_manager_holds_to_its_end_also_when_it_fails() -> None:
    with connection.cursor() as cursor:
        assert in_use() == 1
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)
        cursor.execute(INSERT, ["a"])
        assert in_use() == 1
    assert in_use() == 0
    with pytest.raises(ZeroDivisionError), connection.cursor() as cursor:
        cursor.execute(INSERT, ["b"])
        raise ZeroDivisionError
    assert in_use() == 0
    with pytest.raises(DatabaseError), connection.cursor() as cursor:
        cursor.execute("SELECT nonsense FROM nowhere")
    assert in_use() == 0
    assert committed() == ["a", "b"]


def test_a_cursor_that_was_closed_is_of_no_use_any_more() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        cursor.fetchall()
    with pytest.raises(Error):
        cursor.execute(INSERT, ["never"])
    assert in_use() == 0
    assert committed() == []


def test_a_cursor_that_outlives_its_block_keeps_the_connection_and_not_the_block() -> None:
    with transaction.atomic():
        cursor = connection.cursor()
        cursor.execute(INSERT, ["a"])
    assert committed() == ["a"]
    assert in_use() == 1
    cursor.execute(INSERT, ["b"])
    assert committed() == ["a", "b"]
    with transaction.atomic():
        add("c")
    assert in_use() == 1
    cursor.close()
    assert in_use() == 0


@pytest.mark.only("psycopg")
def test_copy_belongs_to_its_block() -> None:
    for fails in (True, False):
        with suppress(ZeroDivisionError), transaction.atomic():
            with (
                connection.cursor() as cursor,
                cursor.copy("COPY behaviour_note (text) FROM STDIN") as copy,
            ):
                copy.write_row(["a"])
            assert (in_use(), committed()) == (1, [])
            if fails:
                raise ZeroDivisionError
    assert (in_use(), committed()) == (0, ["a"])


# -- select_for_update -------------------------------------------------------------------------------


def lock(using: str = "default", **options: bool) -> Note:
    return Note.objects.using(using).select_for_update(**options).get()


@servers
def test_select_for_update_in_a_block_keeps_others_out_until_its_end() -> None:
    add("a")

    def try_to_lock() -> str:
        try:
            with transaction.atomic():
                return lock(nowait=True).text
        except OperationalError:
            return "locked"

    with transaction.atomic():
        note = lock()
        token()
        assert in_thread(try_to_lock) == "locked"
        note.text = "b"
        note.save()
        assert in_use() == 1
    # What goes back is committed: its locks are gone with it.
    assert in_thread(try_to_lock) == "b"
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        lock()
        raise ZeroDivisionError
    assert in_thread(try_to_lock) == "b"
    assert in_use() == 0


@servers
@cooperative
def test_a_second_session_waits_for_the_lock_and_reads_what_the_first_has_committed(
    observer: Observer,
) -> None:
    add("a")
    if MYSQL:
        waiting = (
            "SELECT 1 FROM information_schema.global_status"
            " WHERE variable_name = 'INNODB_ROW_LOCK_CURRENT_WAITS' AND variable_value > 0"
        )
    else:
        waiting = (
            f"SELECT 1 FROM pg_stat_activity WHERE datname = '{observer.name}' AND wait_event_type = 'Lock'"
        )
    seen: list[str] = []

    def wait_for_lock() -> None:
        with transaction.atomic():
            seen.append(lock().text)

    second = threading.Thread(target=wait_for_lock)
    with transaction.atomic():
        note = lock()
        second.start()
        eventually(lambda: observer.rows(waiting))
        assert (seen, in_use()) == ([], 2)
        note.text = "b"
        note.save()
    second.join(PATIENCE)
    assert not second.is_alive()
    assert seen == ["b"]
    eventually(lambda: in_use() == 0)


@servers
def test_select_for_update_outside_of_a_block_is_refused_as_in_django() -> None:
    add("a")
    with unpooled() as alias, pytest.raises(TransactionManagementError) as djangos:
        lock(alias)
    before = checkouts()
    with pytest.raises(TransactionManagementError) as ours:
        lock()
    assert str(ours.value) == str(djangos.value)
    assert (in_use(), checkouts()) == (0, before)
    with pooling.scope("request"), pytest.raises(TransactionManagementError):
        lock()


@servers
@cooperative
def test_rows_that_are_locked_before_they_are_changed_lose_no_change() -> None:
    add("0")

    def count() -> None:
        for _ in range(5):
            with transaction.atomic():
                note = lock()
                note.text = str(int(note.text) + 1)
                note.save(update_fields=["text"])

    in_threads([count] * 6)
    assert committed() == ["30"]
    assert in_use() == 0


# -- fork --------------------------------------------------------------------------------------------


@contextmanager
def nothing_to_complain_of(observer: Observer) -> Iterator[None]:
    """For the server, whatever the children do."""
    before = complaints(observer)
    yield
    connections.close_all()
    assert pooling.close_all(timeout=PATIENCE)
    eventually(lambda: observer.count() == 0)
    assert complaints(observer) == before


def in_a_thread_of_the_child() -> Any:
    return in_thread(child_with_its_own_connection)


def test_a_fork_in_a_block_that_has_not_begun(observer: Observer) -> None:
    """The child's block begins on a connection of its own, with its own first statement."""

    def child() -> list[Any]:
        still = connection.in_atomic_block
        number = server_id()
        add("never")
        # In a block it is really closed.
        connection.close()
        # Which breaks the block as in Django, and is no concern of another thread's.
        return [still, number, in_a_thread_of_the_child()]

    with nothing_to_complain_of(observer):
        with transaction.atomic():
            transaction.on_commit(lambda: told.append("hook"))
            still, theirs, (in_use_there, idle_there, _) = in_child(child)
            assert (still, in_use_there, idle_there) == (True, 0, 0)
            assert in_use() == 0
            add("parent")
            assert connection.vendor == "sqlite" or server_id() != theirs
            assert committed() == []
        assert told == ["hook"]
        assert committed() == ["parent"]
        assert in_use() == 0


def test_a_child_may_finish_a_block_that_has_not_begun_for_itself(observer: Observer) -> None:
    with nothing_to_complain_of(observer):
        block = transaction.atomic()
        block.__enter__()

        def child() -> int:
            add("child")
            block.__exit__(None, None, None)
            held_afterwards = in_use()
            connections.close_all()
            pooling.close_all()
            return held_afterwards

        assert in_child(child) == 0
        assert committed() == ["child"]
        add("parent")
        block.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
        assert in_use() == 0
        assert committed() == ["child"]


def test_a_fork_in_a_block_that_has_begun(observer: Observer) -> None:
    """In the child the parent's block can only fail; whoever leaves it has connections of his own."""

    def child() -> list[Any]:
        before = in_use()
        with pytest.raises(Error):
            add("never")
        return [before, in_a_thread_of_the_child()]

    with nothing_to_complain_of(observer):
        with transaction.atomic():
            add("before")
            number = server_id()
            before, (in_use_there, idle_there, theirs) = in_child(child)
            assert (before, in_use_there, idle_there) == (0, 0, 0)
            assert connection.vendor == "sqlite" or (server_id() == number and theirs != number)
            assert in_use() == 1
            add("after")
            assert committed() == []
        assert committed() == ["before", "after"]
        assert in_use() == 0


def test_a_child_that_leaves_the_parents_block_goes_on_with_its_own_connection(observer: Observer) -> None:
    class Leave(Exception):
        pass

    with nothing_to_complain_of(observer):
        block = transaction.atomic()
        block.__enter__()
        add("parent")

        def child() -> list[Any]:
            with suppress(Error):
                block.__exit__(Leave, Leave(), None)
            if DRIVER != "sqlite3":
                # There the parent has the lock.
                add("child")
            return [connection.in_atomic_block, *child_with_its_own_connection()[:2]]

        assert in_child(child)[:2] == [False, 0]
        add("after")
        block.__exit__(None, None, None)
        assert [text for text in committed() if text != "child"] == ["parent", "after"]
        assert ("child" in committed()) == (DRIVER != "sqlite3")
        assert in_use() == 0


def test_a_fork_with_an_open_cursor(observer: Observer) -> None:
    with nothing_to_complain_of(observer):
        cursor = connection.cursor()
        number = server_id()
        cursor.execute("SELECT 42")

        def child() -> Any:
            told_there = child_with_its_own_connection()
            with suppress(Error):
                cursor.close()
            return [*told_there, in_use()]

        in_use_there, idle_there, theirs, in_use_afterwards = in_child(child)
        assert (in_use_there, idle_there, in_use_afterwards) == (0, 0, 0)
        assert connection.vendor == "sqlite" or (theirs != number and server_id() == number)
        assert cursor.fetchall() in ([(42,)], ((42,),))
        cursor.execute(INSERT, ["parent"])
        assert in_use() == 1
        cursor.close()
        assert in_use() == 0
        assert committed() == ["parent"]


@pytest.mark.parametrize("in_a_block", [True, False])
def test_a_fork_while_an_iterator_is_read(in_a_block: bool, observer: Observer) -> None:
    """On PostgreSQL it is a cursor of the server's, which the child must not close or read from."""
    add_many("abcdef")
    with nothing_to_complain_of(observer):
        if in_a_block:
            block = transaction.atomic()
            block.__enter__()
        notes = [Note.objects.order_by("id").iterator(chunk_size=1)]
        seen = [next(notes[0]).text, next(notes[0]).text]

        def child() -> Any:
            notes.clear()
            gc.collect()
            return in_a_thread_of_the_child()

        assert in_child(child)[:2] == [0, 0]
        seen += [note.text for note in notes.pop()]
        assert seen == [*"abcdef"]
        if in_a_block:
            add("parent")
            block.__exit__(None, None, None)
        gc.collect()
        assert in_use() == 0
        assert len(committed()) == 6 + in_a_block


# -- kills -------------------------------------------------------------------------------------------


class Killed(BaseException):
    """As GreenletExit, for a thread."""


class TooLate(Exception):
    """As a time limit, for a thread."""


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


def open_transactions(observer: Observer) -> int:
    """How many the server has."""
    if MYSQL:
        [(_, _, status)] = observer.rows("SHOW ENGINE INNODB STATUS")
        return sum(", ACTIVE" in line for line in status.splitlines() if line.startswith("---TRANSACTION"))
    if POSTGRESQL:
        [(count,)] = observer.rows(
            "SELECT count(*) FROM pg_stat_activity"
            f" WHERE datname = '{observer.name}' AND (xact_start IS NOT NULL OR state <> 'idle')"
        )
        return int(count)
    with plain() as wrapper:
        try:
            wrapper.ensure_connection()
            wrapper.connection.execute("PRAGMA busy_timeout = 0")
            wrapper.connection.execute("BEGIN EXCLUSIVE")
            wrapper.connection.rollback()
        except wrapper.Database.OperationalError:
            return 1
    return 0


def assert_exact(using: str, observer: Observer) -> None:
    """Our count, the server's count, and no transaction."""
    eventually(lambda: (in_use(using), pooling.stats(using).opening) == (0, 0))
    assert pooling.stats(using).waiting == 0
    eventually(lambda: open_transactions(observer) == 0)
    # The default alias has the same database.
    eventually(lambda: observer.count() == sum(pooling.stats(name).idle for name in {using, "default"}))


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
    assert pooling.stats("default").waiting == 0
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


# -- AUTOCOMMIT False --------------------------------------------------------------------------------


def answer(function: Callable[[], Any]) -> Any:
    """What it returns or raises."""
    try:
        return function()
    except Exception as error:
        return type(error).__name__


def by_hand(alias: str) -> Iterator[Any]:
    """What happens in plain Django where AUTOCOMMIT is False, step by step."""

    def block(text: str, fails: bool = False, inner: bool = False) -> None:
        with transaction.atomic(using=alias):
            add(text, alias)
            if inner:
                with suppress(ZeroDivisionError):
                    block("failed", fails=True)
            if fails:
                raise ZeroDivisionError

    commit = partial(transaction.commit, using=alias)
    roll_back = partial(transaction.rollback, using=alias)
    yield transaction.get_autocommit(using=alias)
    for step in (
        partial(one, alias),
        partial(add, "a", alias),
        commit,
        partial(add, "rolled back", alias),
        roll_back,
        partial(texts, alias),
        partial(block, "b"),
        commit,
        partial(block, "failed", fails=True),
        commit,
        partial(block, "with an inner block", inner=True),
        commit,
        partial(block, "rolled back unless on SQLite"),
        roll_back,
        partial(add, "before a block", alias),
        partial(block, "block"),
        partial(texts, alias),
        commit,
        partial(sql, "SELECT nonsense FROM nowhere", using=alias),
        roll_back,
        partial(transaction.on_commit, lambda: told.append("hook"), using=alias),
        partial(transaction.set_autocommit, True, using=alias),
        partial(add, "autocommit", alias),
        partial(block, "d"),
        partial(transaction.set_autocommit, False, using=alias),
        partial(add, "left open", alias),
    ):
        yield answer(step)
        yield committed()


@pytest.mark.parametrize("in_a_request", [True, False])
def test_where_autocommit_is_off_everything_is_as_in_django(in_a_request: bool) -> None:
    with unpooled(AUTOCOMMIT=False) as alias:
        expected = list(by_hand(alias))
        connections[alias].close()
    djangos, left = list(told), committed()
    Note.objects.all().delete()
    told.clear()
    with brief(AUTOCOMMIT=False) as alias:
        if in_a_request:
            with request():
                assert list(by_hand(alias)) == expected
        else:
            assert list(by_hand(alias)) == expected
            connections[alias].close()
        assert in_use(alias) == 0
    assert (told, committed()) == (djangos, left)


def test_where_autocommit_is_off_a_transaction_keeps_its_connection_to_its_end() -> None:
    with brief(AUTOCOMMIT=False) as alias, request():
        add("a", alias)
        assert in_use(alias) == 1
        physical = connections[alias].connection
        with held(2, alias):
            add("b", alias)
            assert connections[alias].connection is physical
        assert committed() == []
        transaction.commit(using=alias)
        assert committed() == ["a", "b"]


def test_where_autocommit_is_off_what_is_left_open_is_rolled_back_at_the_end_of_the_request(
    observer: Observer,
) -> None:
    with brief(AUTOCOMMIT=False) as alias:
        with request():
            add("never", alias)
        assert_exact(alias, observer)
        assert committed() == []
        with request():
            add("a", alias)
            transaction.commit(using=alias)
            add("never", alias)
        with request():
            assert texts(alias) == ["a"]
        assert_exact(alias, observer)
        assert committed() == ["a"]


def test_where_autocommit_is_off_a_block_rolls_back_to_its_beginning() -> None:
    with brief(AUTOCOMMIT=False) as alias, request():
        with pytest.raises(ZeroDivisionError), transaction.atomic(using=alias):
            add("never", alias)
            raise ZeroDivisionError
        with transaction.atomic(using=alias):
            add("a", alias)
            with suppress(ZeroDivisionError), transaction.atomic(using=alias):
                add("never", alias)
                raise ZeroDivisionError
        transaction.commit(using=alias)
        assert committed() == ["a"]


# -- what is logged ----------------------------------------------------------------------------------


def normal(statement: str) -> str:
    """Without the numbers in the names of savepoints and of cursors."""
    return re.sub(r"\b(s|_django_curs_)\d+_(x|sync_)\d+", r"\1\2", statement)


def statements_of_all_kinds(alias: str) -> None:
    one(alias)
    add("a", alias)
    with transaction.atomic(using=alias):
        add("b", alias)
        with transaction.atomic(using=alias):
            add("c", alias)
        with suppress(ZeroDivisionError), transaction.atomic(using=alias):
            add("never", alias)
            raise ZeroDivisionError
        with transaction.atomic(using=alias, savepoint=False):
            add("d", alias)
        transaction.on_commit(lambda: add("hook", alias), using=alias)
    with suppress(ZeroDivisionError), transaction.atomic(using=alias):
        one(alias)
        raise ZeroDivisionError
    with suppress(Error):
        sql("SELECT nonsense FROM nowhere", using=alias)
    assert list(Note.objects.using(alias).order_by("id").values_list("text").iterator(chunk_size=2))
    add_many("ef", alias)
    Note.objects.using(alias).bulk_create([Note(text="g"), Note(text="h")], batch_size=1)
    transaction.set_autocommit(False, using=alias)
    add("i", alias)
    transaction.commit(using=alias)
    add("never", alias)
    transaction.rollback(using=alias)
    transaction.set_autocommit(True, using=alias)
    Note.objects.using(alias).filter(text="i").update(text="j")
    Note.objects.using(alias).all().delete()


def captured(alias: str) -> list[str]:
    with CaptureQueriesContext(connections[alias]) as queries:
        statements_of_all_kinds(alias)
    return [normal(query["sql"]) for query in queries]


def logged_in_debug_mode(alias: str) -> list[str]:
    with override_settings(DEBUG=True):
        reset_queries()
        statements_of_all_kinds(alias)
        return [normal(query["sql"]) for query in connections[alias].queries]


def seen_by_a_wrapper(alias: str) -> list[str]:
    seen: list[str] = []

    def wrapper(execute: Any, statement: str, params: Any, many: bool, context: Any) -> Any:
        assert context["connection"] is connections[alias]
        seen.append(f"{normal(statement)} {params} {many}")
        return execute(statement, params, many, context)

    with connections[alias].execute_wrapper(wrapper):
        statements_of_all_kinds(alias)
    return seen


@pytest.mark.parametrize("look", [captured, logged_in_debug_mode, seen_by_a_wrapper])
def test_the_statements_that_are_seen_are_djangos(look: Callable[[str], list[str]]) -> None:
    """With BEGIN, COMMIT, ROLLBACK and savepoints; without what the pool asks or cleans."""
    with unpooled(CONN_HEALTH_CHECKS=True) as alias:
        one(alias)
        expected = look(alias)
    with brief(CONN_HEALTH_CHECKS=True) as alias:
        one(alias)
        assert look(alias) == expected
        with request():
            assert look(alias) == expected
        assert [statement for statement in expected if "SAVEPOINT" in statement]
        assert ("COMMIT" in expected) == (look is not seen_by_a_wrapper)
        connections[alias].close()
        assert in_use(alias) == 0


def test_a_block_without_a_statement_logs_none() -> None:
    one()
    with override_settings(DEBUG=True):
        reset_queries()
        with transaction.atomic(), transaction.atomic(savepoint=False):
            pass
        assert connection.queries == []
        with transaction.atomic():
            one()
        assert [query["sql"] for query in connection.queries[1:2]] == ["SELECT 1"]
        assert [query["sql"] for query in connection.queries[2:]] == ["COMMIT"]
        assert connection.queries[0]["sql"].startswith("BEGIN")


def test_debug_mode_holds_nothing_more() -> None:
    with override_settings(DEBUG=True):
        one()
        assert in_use() == 0
        with transaction.atomic():
            add("a")
            assert in_use() == 1
        assert in_use() == 0
        assert [note.text for note in Note.objects.iterator(chunk_size=1)] == ["a"]
        assert in_use() == 0


def test_assert_num_queries_counts_as_in_django_and_keeps_its_connection_to_the_end_of_the_request() -> None:
    """It calls ensure_connection()."""
    case = TransactionTestCase()
    with brief() as alias:
        with request():
            with case.assertNumQueries(4, using=alias):
                one(alias)
                with transaction.atomic(using=alias):
                    add("a", alias)
            assert in_use(alias) == 1
            with pytest.raises(AssertionError), case.assertNumQueries(1, using=alias):
                one(alias)
                one(alias)
        assert in_use(alias) == 0


def test_a_wrapper_that_refuses_leaves_nothing_held() -> None:
    def refuse(*arguments: Any) -> None:
        raise ZeroDivisionError

    with connection.execute_wrapper(refuse):
        with pytest.raises(ZeroDivisionError):
            one()
        assert in_use() == 0
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            one()
        assert in_use() == 0
    one()
    assert in_use() == 0


# -- two aliases -------------------------------------------------------------------------------------


def test_two_aliases_in_one_request_each_have_their_transaction_and_their_connection() -> None:
    with brief() as first, brief() as second, request():
        with transaction.atomic(using=first):
            add("first", first)
            assert (in_use(first), in_use(second)) == (1, 0)
            assert Note.objects.using(second).count() == 0
            assert (in_use(first), in_use(second)) == (1, 0)
            with suppress(ZeroDivisionError), transaction.atomic(using=second):
                assert texts(second) == []
                assert (in_use(first), in_use(second)) == (1, 1)
                raise ZeroDivisionError
            assert (in_use(first), in_use(second)) == (1, 0)
        assert (in_use(first), in_use(second)) == (0, 0)
        assert texts(second) == ["first"]
        with pytest.raises(ZeroDivisionError), transaction.atomic(using=first):
            with transaction.atomic(using=second):
                transaction.on_commit(lambda: told.append((in_use(first), in_use(second))), using=second)
                add("second", second)
            texts(first)
            raise ZeroDivisionError
        assert told == [(0, 0)]
        assert committed() == ["first", "second"]


def test_an_iterator_over_one_alias_while_another_one_writes() -> None:
    add_many("abc")
    rows = DRIVER != "sqlite3"  # Where a reader keeps writers out.
    with brief() as first, brief() as second, request():
        for note in Note.objects.using(first).order_by("id").iterator(chunk_size=1):
            assert (in_use(first), in_use(second)) == (1, 0)
            if rows:
                Note.objects.using(second).filter(id=note.id).update(text=note.text.upper())
        assert (in_use(first), in_use(second)) == (0, 0)
        assert committed() == ([*"ABC"] if rows else [*"abc"])


def test_a_scope_and_a_release_of_one_alias_are_no_concern_of_the_other() -> None:
    with brief() as first, another_alias(POOL={"SIZE": 2}) as second, request():
        one(second)
        with transaction.atomic(using=first):
            one(first)
            assert (in_use(first), in_use(second)) == (1, 1)
            pooling.release(second)
            assert (in_use(first), in_use(second)) == (1, 0)
        assert (in_use(first), in_use(second)) == (0, 0)


# -- the ORM -----------------------------------------------------------------------------------------


def test_bulk_create_is_all_or_nothing() -> None:
    assert len(Note.objects.bulk_create([Note(text=text) for text in "abcde"], batch_size=2)) == 5
    assert (in_use(), committed()) == (0, [*"abcde"])
    with pytest.raises(IntegrityError):
        Note.objects.bulk_create([Note(id=10**6, text="x"), Note(id=10**6, text="y")], batch_size=1)
    assert (in_use(), committed()) == (0, [*"abcde"])
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        Note.objects.bulk_create([Note(text="never")])
        raise ZeroDivisionError
    Note.objects.bulk_create([Note(id=10**6, text="x"), Note(id=10**6, text="y")], ignore_conflicts=True)
    assert (in_use(), committed()) == (0, [*"abcdex"])


def test_bulk_update_and_in_bulk() -> None:
    add_many("abc")
    notes = list(Note.objects.order_by("id"))
    for note in notes:
        note.text = note.text.upper()
    assert Note.objects.bulk_update(notes, ["text"], batch_size=1) == 3
    assert in_use() == 0
    found = Note.objects.in_bulk([note.id for note in notes])
    assert [found[note.id].text for note in notes] == [*"ABC"]
    assert Note.objects.in_bulk([]) == {}
    assert in_use() == 0


def test_a_race_of_get_or_create_makes_one_row() -> None:
    together = threading.Barrier(6)

    def race(number: int) -> tuple[Note, bool]:
        together.wait(PATIENCE)
        return Note.objects.get_or_create(id=10**6, defaults={"text": f"by {number}"})

    results = in_threads([partial(race, number) for number in range(6)])
    assert sum(was_created for _, was_created in results) == 1
    assert [{note.text for note, _ in results}] == [set(committed())]
    assert in_use() == 0


def test_get_or_create_in_a_block_survives_the_conflict() -> None:
    """It finds nothing, since it looks for another text, and its insert fails in a savepoint."""
    Note.objects.create(id=10**6, text="a")
    with transaction.atomic():
        with pytest.raises(IntegrityError):
            Note.objects.get_or_create(text="other", defaults={"id": 10**6})
        add("b")
        assert in_use() == 1
    assert (in_use(), sorted(committed())) == (0, ["a", "b"])
    with pytest.raises(IntegrityError):
        Note.objects.get_or_create(text="other", defaults={"id": 10**6})
    assert in_use() == 0
    add("c")
    assert sorted(committed()) == ["a", "b", "c"]


# There a block that reads before it writes fails at once when somebody else writes, as in plain Django.
@pytest.mark.never("sqlite3", "threads")
def test_update_or_create_at_the_same_time() -> None:
    Note.objects.create(id=10**6, text="a")

    def change(number: int) -> None:
        for turn in range(3):
            note, was_created = Note.objects.update_or_create(id=10**6, defaults={"text": f"{number} {turn}"})
            assert (note.text, was_created) == (f"{number} {turn}", False)

    in_threads([partial(change, number) for number in range(6)])
    assert [text.split()[1] for text in committed()] == ["2"]
    assert in_use() == 0


def test_update_or_create_is_one_block() -> None:
    def fail() -> str:
        told.append((in_use(), connection.in_atomic_block))
        raise ZeroDivisionError

    Note.objects.create(id=10**6, text="a")
    with pytest.raises(ZeroDivisionError):
        Note.objects.update_or_create(id=10**6, defaults={"text": fail})
    assert told == [(1, True)]
    assert (in_use(), committed()) == (0, ["a"])
    assert Note.objects.update_or_create(id=10**6, defaults={"text": "b"})[1] is False
    assert Note.objects.update_or_create(id=10**6 + 1, defaults={"text": "c"})[1] is True
    assert (in_use(), committed()) == (0, ["b", "c"])


def test_reads_of_all_kinds_hold_nothing_afterwards() -> None:
    add_many("abc")
    notes = Note.objects.order_by("id")
    reads: list[Callable[[], Any]] = [
        notes.count,
        notes.exists,
        notes.first,
        notes.last,
        lambda: notes[1],
        lambda: list(notes[:2]),
        lambda: list(notes.values("text").distinct()),
        lambda: notes.get(text="a").refresh_from_db(),
        lambda: Note.objects.union(Note.objects.filter(text="a")).count(),
        lambda: notes.explain(),
        lambda: [*notes.raw("SELECT * FROM behaviour_note ORDER BY id")],
        lambda: bool(notes.filter(text__in=notes.values("text"))),
    ]
    for read in reads:
        read()
        assert in_use() == 0
    assert Note.objects.filter(text="a").delete()[0] == 1
    assert in_use() == 0


def portals(alias: str) -> list[Any]:
    """Cursors that the server keeps for this session."""
    return sql("SELECT is_holdable FROM pg_cursors", using=alias)


@pytest.mark.only("psycopg", "psycopg2")
def test_a_cursor_of_the_servers_outlives_autocommit_but_not_its_block() -> None:
    with brief() as alias, request():
        add_many("abcdef", alias)
        for in_a_block in (False, True):
            if in_a_block:
                block = transaction.atomic(using=alias)
                block.__enter__()
            notes = Note.objects.using(alias).order_by("id").iterator(chunk_size=2)
            assert in_use(alias) == 0
            assert next(notes).text == "a"
            number = server_id(alias)
            assert portals(alias) == [(not in_a_block,)]
            assert [note.text for note in notes] == [*"bcdef"]
            if in_a_block:
                assert in_use(alias) == 1
                assert portals(alias) == []
                block.__exit__(None, None, None)
            assert in_use(alias) == 0
            assert (server_id(alias), portals(alias)) == (number, [])
        assert (pooling.stats(alias).opened, pooling.stats(alias).resets) == (1, 0)


@pytest.mark.only("psycopg", "psycopg2")
def test_two_cursors_of_the_servers_at_the_same_time_share_one_session() -> None:
    with brief() as alias, request():
        add_many("abc", alias)
        notes = Note.objects.using(alias).order_by("id")
        pairs = []
        for first in notes.iterator(chunk_size=1):
            for second in notes.iterator(chunk_size=1):
                pairs.append(first.text + second.text)
                assert len(portals(alias)) == 2
        assert pairs == [first + second for first in "abc" for second in "abc"]
        assert in_use(alias) == 0


# psycopg2 complains, as in plain Django, that its cursor has ended with the block.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_iterator_that_outlives_its_block_holds_until_it_is_dropped() -> None:
    with brief() as alias:
        with request():
            add_many("abc", alias)
            with transaction.atomic(using=alias):
                notes = Note.objects.using(alias).order_by("id").iterator(chunk_size=1)
                assert next(notes).text == "a"
            assert in_use(alias) == 1
            add("d", alias)
            assert committed() == [*"abcd"]
            del notes
            gc.collect()
            token(alias)
        assert in_use(alias) == 0
        with request():
            assert texts(alias) == [*"abcd"]
            assert in_use(alias) == 0


@pytest.mark.only("psycopg", "psycopg2")
def test_without_cursors_of_the_server_an_iterator_reads_all_at_once_and_holds_nothing() -> None:
    with brief(DISABLE_SERVER_SIDE_CURSORS=True) as alias, request():
        add_many("abc", alias)
        notes = Note.objects.using(alias).order_by("id").iterator(chunk_size=1)
        assert next(notes).text == "a"
        assert (in_use(alias), portals(alias)) == (0, [])
        assert [note.text for note in notes] == ["b", "c"]
        assert in_use(alias) == 0


# -- a task next to others -----------------------------------------------------------------------------


def test_a_task_of_200_statements_next_to_ten_others_on_two_connections() -> None:
    pooling.set_pool_size(2, max_outstanding=2, timeout=PATIENCE)
    # There one writes at a time, and readers are in its way.
    writers = 1 if DRIVER == "sqlite3" else 11

    def change(number: int, turns: int) -> None:
        note = Note.objects.create(text=f"{number} 0")
        for turn in range(1, turns + 1):
            if number >= writers:
                with transaction.atomic():
                    token()
                continue
            if turn % 3 == 0:
                with transaction.atomic():
                    mine = Note.objects.select_for_update().get(id=note.id)
                    assert mine.text == f"{number} {turn - 1}"
                    mine.text = f"{number} {turn}"
                    mine.save()
            elif turn % 3 == 1:
                assert Note.objects.filter(text=f"{number} {turn - 1}").update(text=f"{number} {turn}") == 1
            else:
                found = [one_note.text for one_note in Note.objects.filter(id=note.id).iterator()]
                assert found == [f"{number} {turn - 1}"]
                with connection.cursor() as cursor:
                    cursor.execute(
                        "UPDATE behaviour_note SET text = %s WHERE id = %s", [f"{number} {turn}", note.id]
                    )
                    assert cursor.rowcount == 1

    in_threads([partial(change, 0, 100), *[partial(change, number, 20) for number in range(1, 11)]])
    assert in_use() == 0
    expected = ["0 100", *[f"{number} {20 if number < writers else 0}" for number in range(1, 11)]]
    assert sorted(committed()) == sorted(expected)
    assert pooling.stats("default").waiting == 0
    assert_whole()


# -- where it once went wrong ----------------------------------------------------------------------------

if MYSQL:
    ASKING = "INSERT INTO behaviour_note (text) VALUES (CONCAT(LAST_INSERT_ID(), %s))"
elif POSTGRESQL:
    ASKING = "INSERT INTO behaviour_note (text) VALUES (currval('behaviour_note_id_seq')::text || %s)"
else:
    ASKING = "INSERT INTO behaviour_note (text) VALUES (last_insert_rowid() || %s)"


def test_executemany_too_is_refused_what_the_last_statement_left() -> None:
    add("a")
    with pytest.raises(TransactionManagementError, match=r"atomic\(\)"), connection.cursor() as cursor:
        cursor.executemany(ASKING, [("x",), ("y",)])
    assert committed() == ["a"]


@pytest.mark.parametrize("end", [transaction.commit, transaction.rollback])
def test_where_autocommit_is_off_the_end_of_the_transaction_gives_back(end: Callable[..., None]) -> None:
    with brief(AUTOCOMMIT=False) as alias, request():
        add("a", alias)
        assert in_use(alias) == 1
        end(using=alias)
        assert in_use(alias) == 0
        texts(alias)
        assert in_use(alias) == 1
        end(using=alias)
        assert in_use(alias) == 0


def test_ensure_connection_in_a_block_keeps_nothing_beyond_it() -> None:
    with brief() as alias, request():
        with transaction.atomic(using=alias):
            connections[alias].ensure_connection()
            one(alias)
        assert in_use(alias) == 0


def test_ensure_connection_in_a_block_that_has_begun_keeps_nothing_beyond_it() -> None:
    with brief() as alias, request():
        with transaction.atomic(using=alias):
            one(alias)
            connections[alias].ensure_connection()
        assert in_use(alias) == 0


@pytest.mark.only("threads")
@pytest.mark.never("sqlite3")
def test_a_time_limit_that_strikes_inside_of_a_statement_of_the_orm_comes_out_as_it_is(
    observer: Observer,
) -> None:
    """As Celery's soft limit does, which is an Exception; Django closes the cursor then."""
    add("a")
    sleep = "SLEEP(0.5)" if MYSQL else "pg_sleep(0.5)::text"
    looking = (
        "SELECT 1 FROM information_schema.processlist WHERE state = 'User sleep'"
        if MYSQL
        else f"SELECT 1 FROM pg_stat_activity WHERE datname = '{observer.name}' AND wait_event = 'PgSleep'"
    )
    died_of: list[str] = []

    def work() -> None:
        try:
            list(Note.objects.annotate(slept=RawSQL(sleep, [])))
        except BaseException as error:
            died_of.append(type(error).__name__)

    thread = threading.Thread(target=work)
    thread.start()
    eventually(lambda: observer.rows(looking))
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(TooLate))
    thread.join(PATIENCE)
    assert died_of == ["TooLate"]
    eventually(lambda: in_use() == 0)
