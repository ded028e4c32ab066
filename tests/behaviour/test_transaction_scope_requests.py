"""Transaction scope with the rest of Django: views and streams."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from django.core.handlers.wsgi import WSGIHandler
from django.db import (
    connections,
    transaction,
)
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import Client, RequestFactory, override_settings
from django.urls import path

from django_db_pooling import pooling
from tests.behaviour.brief import (
    add,
    brief,
    checkouts,
    in_use,
    nothing_told,  # noqa: F401
    texts,
    told,
)
from tests.behaviour.conftest import (
    DRIVER,
    committed,
    eventually,
    in_threads,
    one,
)
from tests.behaviour.models import Note

pytestmark = [pytest.mark.transaction_scope, pytest.mark.usefixtures("nothing_told")]

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
