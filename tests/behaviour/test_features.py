"""What Django's features ask of a connection: SQLite's do, since Django 6.0, for each bulk operation."""

from __future__ import annotations

import pytest
from django.db import connection

from tests.behaviour.brief import in_use
from tests.behaviour.conftest import in_thread
from tests.behaviour.models import Note

pytestmark = pytest.mark.transaction_scope


def bulk() -> None:
    assert Note.objects.in_bulk([1, 2, 3]) == {}
    assert in_use() == 0
    assert connection.features.max_query_params != 0
    assert in_use() == 0


def test_a_bulk_operation_holds_no_connection_afterwards() -> None:
    for _ in range(2):
        in_thread(bulk)
    assert in_use() == 0


def test_a_wrapper_that_django_makes_has_the_features_of_its_copies() -> None:
    copied = connection.copy()
    assert type(connection.features) is type(copied.features) is connection.features_class
