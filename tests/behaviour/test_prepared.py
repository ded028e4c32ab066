"""Statements that psycopg has prepared on the server, and a reset, which ends them there."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from django_db_pooling import pooling
from tests.behaviour.conftest import another_alias, assert_whole, request, server_id, sql

pytestmark = pytest.mark.only("psycopg")

FORGETS = tuple(map(int, version("psycopg").split(".")[:3])) >= (3, 3, 5)


def prepared(alias: str) -> list[str]:
    return [statement for (statement,) in sql("SELECT statement FROM pg_prepared_statements", using=alias)]


def work(alias: str) -> None:
    for number in range(3):
        assert sql("SELECT %s::int AS first", number, using=alias) == [(number,)]
        assert sql("SELECT %s::int AS second", number, using=alias) == [(number,)]


@pytest.mark.parametrize("threshold", [0, 1])
def test_a_reset_ends_them_and_psycopg_knows(threshold: int) -> None:
    with another_alias(
        OPTIONS={"server_side_binding": True, "prepare_threshold": threshold}, POOL={"SCOPE": "request"}
    ) as alias:
        servers = set()

        def visit() -> None:
            assert not any("first" in statement for statement in prepared(alias))
            assert sql("SELECT current_setting('my.tenant', true)", using=alias)[0][0] in (None, "")
            work(alias)
            assert any("first" in statement for statement in prepared(alias))
            sql("SET my.tenant = 'mine'", using=alias)
            servers.add(server_id(alias))

        for _ in range(4):
            request(visit)
        assert len(servers) == pooling.stats(alias).opened == (1 if FORGETS else 4)
        assert bool(pooling.stats(alias).resets) == FORGETS
    assert_whole()


def test_without_a_reset_they_stay_for_the_next_one() -> None:
    with another_alias(OPTIONS={"server_side_binding": True, "prepare_threshold": 0}) as alias:
        for number in range(3):
            request(lambda: work(alias))
            assert any("first" in statement for statement in request(lambda: prepared(alias))), number
        assert pooling.stats(alias).opened == 1
        assert pooling.stats(alias).resets == 0
