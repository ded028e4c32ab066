"""release() in a transaction: a TestCase's own is left alone, for any other the error says which it is."""

from __future__ import annotations

import unittest
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection, connections, transaction
from django.db.transaction import TransactionManagementError
from django.http import HttpRequest, HttpResponse
from django.test import Client, TestCase, override_settings
from django.urls import path

from django_db_pooling import pooling
from tests.behaviour.conftest import BEGIN, one, sql
from tests.behaviour.models import Note


def slow(request: HttpRequest) -> HttpResponse:
    """A view that gives its connection back before it calls another service."""
    before = Note.objects.count()
    pooling.release()
    return HttpResponse(f"{before} {Note.objects.count()}")


def in_a_block(request: HttpRequest) -> HttpResponse:
    with transaction.atomic():
        one()
        pooling.release()
    return HttpResponse("released")


@transaction.non_atomic_requests
def exempt(request: HttpRequest) -> HttpResponse:
    return slow(request)


@transaction.non_atomic_requests
def exempt_with_a_block(request: HttpRequest) -> HttpResponse:
    return in_a_block(request)


urlpatterns = [
    path("slow", slow),
    path("exempt", exempt),
    path("exempt-block", exempt_with_a_block),
    path("block", in_a_block),
    path("decorated", transaction.atomic(slow)),
]


@pytest.fixture(autouse=True)
def own_urls() -> Iterator[None]:
    with override_settings(ROOT_URLCONF=__name__):
        yield


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(TransactionManagementError) as caught:
        call()
    return str(caught.value)


def run(body: Callable[[TestCase], None]) -> None:
    """As a test of a project's TestCase."""

    class Case(TestCase):
        @classmethod
        def setUpTestData(cls) -> None:
            Note.objects.create(text="of the class")

        def test(self) -> None:
            body(self)

    result = unittest.TestResult()
    unittest.TestSuite([Case("test")]).run(result)
    for _, text in [*result.errors, *result.failures]:
        pytest.fail(text)
    assert result.testsRun == 1


def test_in_a_testcase_it_does_nothing() -> None:
    """What the test has written is still there, in the session that has written it."""

    def body(case: TestCase) -> None:
        Note.objects.create(text="of the test")
        session = connection.connection
        pooling.release()
        pooling.release("default")
        assert connection.connection is session
        assert Client().get("/slow").content == b"2 2"
        assert connection.connection is session
        assert Note.objects.count() == 2

    run(body)
    assert not Note.objects.exists()


def test_a_views_own_block_is_refused_in_a_testcase_as_it_is_in_production() -> None:
    def body(case: TestCase) -> None:
        for url in ("/block", "/decorated"):
            said = refusal(lambda url=url: Client().get(url))  # type: ignore[misc]
            assert "'default' can't be released inside of atomic()" in said

    run(body)
    assert "inside of atomic()" in refusal(lambda: Client().get("/block"))


def test_the_error_names_atomic_requests() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)
        said = refusal(lambda: Client().get("/slow"))
        assert "ATOMIC_REQUESTS" in said
        assert "non_atomic_requests" in said
        assert Client().get("/exempt").content == b"0 0"
        assert "inside of atomic()" in refusal(lambda: Client().get("/exempt-block"))


def test_the_error_names_a_transaction_without_a_block() -> None:
    sql(BEGIN)
    if pooling.stats("default").in_use and connection.in_transaction:
        assert "a statement or set_autocommit(False)" in refusal(pooling.release)
    sql("ROLLBACK")
    transaction.set_autocommit(False)
    one()
    sql("INSERT INTO behaviour_note (text) VALUES ('a')")
    assert "Commit it or roll it back" in refusal(pooling.release)
    transaction.rollback()
    transaction.set_autocommit(True)
    pooling.release()
    assert pooling.stats("default").in_use == 0
