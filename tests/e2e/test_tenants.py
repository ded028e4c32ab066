"""django-tenants: a schema for each tenant, and each sees its own rows, whoever has had the connection."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest

from tests.e2e.checks import is_at_rest
from tests.e2e.observer import DATABASE, Observer
from tests.e2e.sites import Answer, eventually, gunicorn
from tests.servers import PostgreSQL

if find_spec("django_tenants") is None and not os.environ.get("CI"):
    pytest.skip("needs django-tenants", allow_module_level=True)

CLIENTS = 60
SECONDS = 5.0
MOST = 4
PATIENCE = 30.0
TENANTS = ("one", "two", "public")
# As in tests/site/tenants/views.py: a name that it doesn't know stands for any of them.
WAYS = ("path", "server_side", "atomic", "rolled_back", "switch", "contexts", "released", "public_first")
PATHS = [f"/tenant/any?tenant={tenant}" for tenant in TENANTS]

CREATE = """
    CREATE TABLE public.tenant (id INTEGER PRIMARY KEY, schema_name VARCHAR(63) NOT NULL);
    CREATE TABLE public.tenant_domain (
        id SERIAL PRIMARY KEY,
        domain VARCHAR(253) NOT NULL,
        is_primary BOOLEAN NOT NULL DEFAULT TRUE,
        tenant_id INTEGER NOT NULL
    );
    INSERT INTO public.tenant VALUES (1, 'one'), (2, 'two'), (3, 'public');
    INSERT INTO public.tenant_domain (domain, tenant_id) VALUES ('one', 1), ('two', 2), ('public', 3);
    ALTER TABLE public.site_row RENAME TO site_row_of_others;
"""
CREATE_ROWS = """
    CREATE SCHEMA IF NOT EXISTS {0};
    CREATE TABLE {0}.site_row AS
        SELECT id, '{0}'::varchar AS text, 0 AS counter FROM generate_series(1, 2) AS id;
"""
DROP = """
    DROP SCHEMA one, two CASCADE;
    DROP TABLE public.site_row, public.tenant, public.tenant_domain;
    ALTER TABLE public.site_row_of_others RENAME TO site_row;
"""

scopes = pytest.mark.parametrize("scope", ["request", "transaction"])
# TENANT_LIMIT_SET_CALLS: it says SET search_path before each statement, or once as far as it knows.
limits = pytest.mark.parametrize("limit", [False, True], ids=["each", "once"])


@pytest.fixture(scope="module")
def tenants(postgresql: PostgreSQL) -> Iterator[PostgreSQL]:
    postgresql.execute(CREATE + "".join(map(CREATE_ROWS.format, TENANTS)), DATABASE)
    yield postgresql
    postgresql.execute(DROP, DATABASE)


def settings(scope: str, limit: bool) -> dict[str, Any]:
    return {"module": "tests.site.tenants.settings", "pool": {"SCOPE": scope}, "limit_set_calls": limit}


@pytest.mark.parametrize("keep_alive", [False, True], ids=["close", "keep_alive"])
@limits
@scopes
def test_under_load_each_tenant_sees_its_own_rows(
    postgresql: PostgreSQL, tenants: PostgreSQL, observer: Observer, scope: str, limit: bool, keep_alive: bool
) -> None:
    """A visitor who stays connected is another tenant at each request, in the same greenlet."""
    with gunicorn(
        tenants, pooling=(MOST, MOST), arguments=["--keep-alive=60"], **settings(scope, limit)
    ) as site:
        with observer.watching() as watch:
            load = site.load(*PATHS, clients=CLIENTS, seconds=SECONDS, keep_alive=keep_alive)
            report = load.report()
        stats = site.stats()
        print(scope, limit, report, watch, stats)

        assert report["errors"] == {}
        assert report["failed"] == {}
        assert report["answered"] == {"200": report["begun"]}
        assert report["fewest_answers_of_a_client"] > 0
        # The pool is one for all tenants, and bounded.
        assert 0 < watch.most <= MOST
        assert stats["opened"] <= 2 * MOST
        eventually(lambda: is_at_rest(site), PATIENCE)
        eventually(lambda: observer.connections() == site.stats()["idle"], PATIENCE)


@limits
@scopes
def test_each_way_of_being_a_tenant_alone_on_one_connection(
    tenants: PostgreSQL, scope: str, limit: bool
) -> None:
    with gunicorn(tenants, pooling=(1, 1), **settings(scope, limit)) as site:
        for way in WAYS:
            for _ in range(4):
                found = [site.get(f"/tenant/{way}?tenant={tenant}") for tenant in TENANTS]
                assert found == [Answer(200, tenant) for tenant in TENANTS], way


@scopes
def test_of_what_tenants_count_nothing_is_lost_or_anothers(tenants: PostgreSQL, scope: str) -> None:
    counters = "SELECT sum(counter) FROM {}.site_row"
    before = [int(tenants.execute(counters.format(tenant), DATABASE)[0][0]) for tenant in TENANTS]
    with gunicorn(tenants, pooling=(MOST, MOST), **settings(scope, True)) as site:
        answers = site.get_all([f"/tenant/atomic?tenant={tenant}" for tenant in TENANTS] * 30, at_once=30)
        assert {answer.status for answer in answers} == {200}, answers
    after = [int(tenants.execute(counters.format(tenant), DATABASE)[0][0]) for tenant in TENANTS]
    assert [now - then for now, then in zip(after, before, strict=True)] == [60, 60, 60]
