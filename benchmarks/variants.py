"""The variants that are compared, about ten lines for each.

Imported by the runner and by the benchmark site, which runs in the variant's own environment. So nothing here
imports a pool before its ``start`` is called.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# Stands for the package in this working tree.
TREE = "this working tree"
MYSQL = "mysql"
POSTGRESQL = "postgresql"
# PostgreSQL behind PgBouncer, which shares a few connections by transaction.
PGBOUNCER = "pgbouncer"
LDAP = "ldap"
LDAPS = "ldaps"
# What the others are compared with.
CEILING = "ceiling: ORM"
FAIR_CEILING = "ceiling: ORM, in order"
# An engine that is not one of Django's own; this release of it is for Django 5.
DJANGO_LDAPDB = ("mprov-django-ldapdb>=1.5.4", "python-ldap>=3.4.5")


@dataclass(frozen=True)
class Variant:
    """``settings(database, size)``: what changes in ``DATABASES["default"]``; its OPTIONS are added to ours.

    ``start(size)`` is called in wsgi.py before Django is set up. ``size``: most connections, where the
    variant can bound them. ``reader``: how the views read, a class in site/readers.py.
    """

    name: str
    databases: tuple[str, ...] = (MYSQL, POSTGRESQL)
    requires: tuple[str, ...] = ()
    settings: Callable[[str, int], dict[str, Any]] = lambda database, size: {}
    start: Callable[[int], None] = lambda size: None
    reader: str = "ThroughORM"


def _patch(size: int) -> None:
    # This package and 0.0.4 have the same name, and these two calls in common.
    from django_db_pooling import pooling

    pooling.set_pool_size(size, max_outstanding=size)
    pooling.apply_patch()


def _patch_for_prometheus(size: int) -> None:
    """Scraped every second, by the process itself."""
    import threading
    import time

    from prometheus_client import generate_latest

    from django_db_pooling.metrics import prometheus

    def scrape() -> None:
        while True:
            time.sleep(1)
            generate_latest()

    _patch(size)
    prometheus.register()
    threading.Thread(target=scrape, daemon=True).start()


def _patch_for_opentelemetry(size: int) -> None:
    """Exported every second, by the SDK."""
    import os

    from opentelemetry import metrics
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader

    from django_db_pooling.metrics import opentelemetry

    exporter = ConsoleMetricExporter(out=open(os.devnull, "w"))  # noqa: SIM115
    metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(exporter, 1000)]))
    _patch(size)
    opentelemetry.start()


VARIANTS = [
    Variant(
        CEILING,
        reader="ThroughWrappers",
    ),
    Variant(
        FAIR_CEILING,
        reader="ThroughWrappersInOrder",
    ),
    Variant(
        "ceiling: raw driver",
        reader="ThroughDriver",
    ),
    Variant(
        "django_db_pooling",
        requires=(TREE,),
        start=_patch,
    ),
    Variant(
        "django_db_pooling, Prometheus",
        requires=(TREE, "prometheus_client"),
        start=_patch_for_prometheus,
    ),
    Variant(
        "django_db_pooling, OpenTelemetry",
        requires=(TREE, "opentelemetry-sdk"),
        start=_patch_for_opentelemetry,
    ),
    Variant(
        "django_db_pooling, transactions",
        requires=(TREE,),
        settings=lambda database, size: {"POOL": {"SCOPE": "transaction"}},
        start=_patch,
    ),
    Variant(
        "django_db_pooling, transactions, size / 4",
        requires=(TREE,),
        settings=lambda database, size: {"POOL": {"SCOPE": "transaction"}},
        start=lambda size: _patch(max(1, size // 4)),
    ),
    Variant(
        "django_db_pooling, proxy",
        databases=(PGBOUNCER,),
        requires=(TREE,),
        settings=lambda database, size: {
            "POOL": {"SCOPE": "transaction", "PROXY": "transaction"},
            "DISABLE_SERVER_SIDE_CURSORS": True,
        },
        start=_patch,
    ),
    Variant(
        "django_db_pooling 0.0.4",
        requires=("django_db_pooling==0.0.4",),
        settings=lambda database, size: {"CONN_MAX_AGE": 60},
        start=_patch,
    ),
    Variant(
        "django-db-connection-pool",
        requires=("django-db-connection-pool",),
        settings=lambda database, size: {
            "ENGINE": f"dj_db_conn_pool.backends.{database}",
            "POOL_OPTIONS": {"POOL_SIZE": size, "MAX_OVERFLOW": 0},
        },
    ),
    Variant(
        "django-db-geventpool",
        databases=(POSTGRESQL,),
        requires=("django-db-geventpool",),
        settings=lambda database, size: {
            "ENGINE": "django_db_geventpool.backends.postgresql_psycopg3",
            "OPTIONS": {"MAX_CONNS": size, "REUSE_CONNS": size},
        },
    ),
    Variant(
        "Django's own pool",
        databases=(POSTGRESQL,),
        requires=("psycopg[pool]",),
        settings=lambda database, size: {"OPTIONS": {"pool": {"max_size": size}}},
    ),
    Variant(
        "Django, CONN_MAX_AGE 0",
        databases=(MYSQL, POSTGRESQL, PGBOUNCER),
        settings=lambda database, size: {"CONN_MAX_AGE": 0},
    ),
    Variant(
        "Django, CONN_MAX_AGE 60",
        databases=(MYSQL, POSTGRESQL, PGBOUNCER),
        settings=lambda database, size: {"CONN_MAX_AGE": 60},
    ),
    Variant(
        "django-ldapdb",
        databases=(LDAP, LDAPS),
        requires=DJANGO_LDAPDB,
        reader="ThroughDirectory",
    ),
    Variant(
        "django-ldapdb, CONN_MAX_AGE None",
        databases=(LDAP, LDAPS),
        requires=DJANGO_LDAPDB,
        settings=lambda database, size: {"CONN_MAX_AGE": None},
        reader="ThroughDirectory",
    ),
    Variant(
        "django_db_pooling, per request",
        databases=(LDAP, LDAPS),
        requires=(TREE, *DJANGO_LDAPDB),
        settings=lambda database, size: {"POOL": {"SCOPE": "request"}},
        start=_patch,
        reader="ThroughDirectory",
    ),
    Variant(
        "django_db_pooling, per operation",
        databases=(LDAP, LDAPS),
        requires=(TREE, *DJANGO_LDAPDB),
        start=_patch,
        reader="ThroughDirectory",
    ),
]

BY_NAME = {variant.name: variant for variant in VARIANTS}
