"""A request takes a connection at its first statement and gives it back at its end."""

from __future__ import annotations

from django.db import connection
from django.test import Client

from django_db_pooling import pooling
from tests.behaviour.conftest import in_thread, one, request_finished, request_started, server_id
from tests.behaviour.observer import Observer


def test_a_request_without_queries_takes_nothing(observer: Observer) -> None:
    before = pooling.stats("default").checkouts
    Client().get("/nothing")
    assert pooling.stats("default").checkouts == before
    assert observer.count() == 0


def test_the_first_statement_checks_out_and_the_end_of_the_request_checks_in(observer: Observer) -> None:
    request_started()
    one()
    assert pooling.stats("default").in_use == 1
    request_finished()
    stats = pooling.stats("default")
    assert (stats.in_use, stats.idle) == (0, 1)
    assert connection.connection is None
    assert observer.count() == 1


def test_the_next_request_of_another_thread_gets_the_same_physical_connection() -> None:
    def request() -> int:
        request_started()
        number = server_id()
        request_finished()
        return number

    assert len({in_thread(request) for _ in range(10)}) == 1


def test_the_test_client_leaves_nothing_in_use() -> None:
    assert Client().get("/count").content == b"0"
    Client().get("/add?text=x")
    assert Client().get("/count").content == b"1"
    assert pooling.stats("default").in_use == 0
