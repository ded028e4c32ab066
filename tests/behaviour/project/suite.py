"""The project's tests: each kind of Django's test cases, and what they must not see of each other."""

from __future__ import annotations

import threading
import urllib.request

from django.db import connection, transaction
from django.test import Client, LiveServerTestCase, TestCase, TransactionTestCase

from django_db_pooling import pooling
from tests.behaviour.models import Note


class IsTestDatabase:
    def test_nothing_of_the_real_database_is_seen(self) -> None:
        assert "real" not in Note.objects.values_list("text", flat=True)


class IsolatedA(IsTestDatabase, TestCase):
    @classmethod
    def setUpTestData(cls) -> None:
        Note.objects.create(text="of the class")

    def test_one(self) -> None:
        assert Note.objects.count() == 1
        Note.objects.create(text="one")
        Client().get("/add?text=by-client")
        assert Client().get("/count").content == b"3"
        assert Note.objects.count() == 3

    def test_two(self) -> None:
        assert Note.objects.count() == 1
        Note.objects.all().delete()
        Client().get("/add?text=by-client")

    def test_hooks(self) -> None:
        seen = []
        with self.captureOnCommitCallbacks(execute=True) as callbacks:
            transaction.on_commit(lambda: seen.append(1))
        assert len(callbacks) == len(seen) == 1

    def test_number_of_queries(self) -> None:
        with self.assertNumQueries(1):
            list(Note.objects.all())


class IsolatedB(IsTestDatabase, TestCase):
    def test_nothing_is_left_of_others(self) -> None:
        assert Note.objects.count() == 0
        assert pooling.stats("default").waiting == 0


class Flushed(IsTestDatabase, TransactionTestCase):
    def test_one(self) -> None:
        assert Note.objects.count() == 0
        Note.objects.create(text="committed")

    def test_two(self) -> None:
        assert Note.objects.count() == 0
        Note.objects.create(text="committed")

        def look() -> None:
            found.append(Note.objects.count())
            connection.close()

        found: list[int] = []
        for _ in range(3):
            thread = threading.Thread(target=look)
            thread.start()
            thread.join()
        assert found == [1, 1, 1] or connection.settings_dict["NAME"].startswith("file:")


class Live(LiveServerTestCase):
    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.live_server_url + path, timeout=20) as response:
            content: bytes = response.read()
            return content

    def test_the_server_and_the_test_see_the_same_database(self) -> None:
        Note.objects.create(text="by the test")
        for number in range(3):
            assert self.get("/count") == str(number + 1).encode()
            self.get("/add?text=by-the-server")
        assert Note.objects.count() == 4

    def test_again(self) -> None:
        assert self.get("/count") == b"0"
