"""Servers that tell more than the pool asks for: what they tell of transactions changes no session."""

from __future__ import annotations

import pytest
from django.db import transaction

from django_db_pooling import pooling
from tests.behaviour.conftest import BEGIN, another_alias, request, sql

pytestmark = [pytest.mark.only("pymysql"), pytest.mark.transaction_scope]

INSERT = "INSERT INTO behaviour_note (text) VALUES ('a')"


@pytest.mark.parametrize(
    "tracking",
    [
        "transaction_info = 'OFF'",
        "transaction_info = 'STATE'",
        "transaction_info = 'CHARACTERISTICS'",
        # As MySQL Router sets it: MySQL's number of the statement is a variable, too.
        "system_variables = '*'",
    ],
)
@pytest.mark.parametrize("scope", ["request", "transaction"])
def test_a_transaction_costs_no_reset_and_holds_nothing_on(scope: str, tracking: str) -> None:
    command = f"SET SESSION session_track_{tracking}"
    pool = {"SIZE": 1, "MAX_OUTSTANDING": 1, "SCOPE": scope}
    with another_alias(OPTIONS={"init_command": command}, POOL=pool) as alias:

        def work() -> None:
            sql(INSERT, using=alias)
            with transaction.atomic(using=alias):
                sql(INSERT, using=alias)
            for statement in (BEGIN, INSERT, "COMMIT"):
                sql(statement, using=alias)
            assert pooling.stats(alias).in_use == (scope == "request")

        for _ in range(3):
            request(work)
        assert (pooling.stats(alias).resets, pooling.stats(alias).opened) == (0, 1)
        request(lambda: sql("SET @mine = 1", using=alias))
        assert pooling.stats(alias).resets == 1
        request(work)
        assert (pooling.stats(alias).resets, pooling.stats(alias).opened) == (1, 1)
