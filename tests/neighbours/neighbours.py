"""The packages, and what each needs. Imports neither Django nor any of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SQLITE = "SQLite"
POSTGRESQL = "PostgreSQL"
MARIADB = "MariaDB"


@dataclass(frozen=True)
class Neighbour:
    """``does``: what it does with connections, for the documentation. ``requires``: from PyPI, the package
    itself first; nothing where it comes with Django or its driver. ``probes``: the file, where the name
    doesn't tell.
    """

    name: str
    does: str
    requires: tuple[str, ...] = ()
    databases: tuple[str, ...] = (POSTGRESQL,)
    apps: tuple[str, ...] = ()
    middleware: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    # Of DATABASES["default"].
    database: Mapping[str, Any] = field(default_factory=dict)
    gevent: bool = True
    # psycopg2 instead of psycopg 3.
    psycopg2: bool = False
    # Most connections: fewer than the probes have requests at a time.
    connections: int = 3
    # SQL for the superuser, before the first migration.
    prepare: str = ""
    probes: str = ""
    # Of the package's own tests, which pytest runs instead of probes.
    suite: tuple[str, ...] = ()
    # A module that is imported before pooling.patch() is called.
    first: str = ""

    @property
    def module(self) -> str:
        return f"tests.neighbours.probes.{self.probes or re.sub('[^a-z0-9]', '_', self.name.lower())}"

    @property
    def package(self) -> str:
        """As PyPI knows it."""
        return re.split("[<>=~\\[]", self.requires[0])[0] if self.requires else self.name.split(".")[0]


SESSIONS = ("django.contrib.sessions.middleware.SessionMiddleware",)
AUTH = (*SESSIONS, "django.contrib.auth.middleware.AuthenticationMiddleware")

WAGTAIL = (
    *(f"wagtail.{name}" for name in ("contrib.redirects", "embeds", "sites", "users", "snippets")),
    *(f"wagtail.{name}" for name in ("documents", "images", "search", "admin")),
    *("wagtail", "modelcluster", "taggit"),
    *("django.contrib.sessions", "django.contrib.messages", "django.contrib.staticfiles"),
)

# A role that row-level security applies to.
TENANTS_ROLE = """
    DO $$ BEGIN CREATE ROLE tenants LOGIN PASSWORD 'app-secret'; EXCEPTION WHEN duplicate_object THEN END $$;
    ALTER DATABASE "{database}" OWNER TO tenants;
"""


def _rls(name: str, local: bool) -> Neighbour:
    return Neighbour(
        name,
        "SET LOCAL per request, in ATOMIC_REQUESTS" if local else "a parameter of the session per request",
        requires=("django-rls-tenants>=1.2,<2",),
        apps=("django_rls_tenants",),
        middleware=("tests.neighbours.probes.rls.as_tenant", "django_rls_tenants.RLSTenantMiddleware"),
        settings={"RLS_TENANTS": {"TENANT_MODEL": "probes.Tenant", "USE_LOCAL_SET": local}},
        database={"USER": "tenants", "ATOMIC_REQUESTS": local},
        prepare=TENANTS_ROLE,
        probes="rls",
    )


NEIGHBOURS = {
    neighbour.name: neighbour
    for neighbour in (
        Neighbour(
            "django-read-only",
            "an execute wrapper, put on by a receiver of connection_created",
            requires=("django-read-only~=1.21",),
            databases=(SQLITE, POSTGRESQL, MARIADB),
            apps=("django_read_only",),
        ),
        Neighbour(
            "django-debug-toolbar",
            "replaces cursor() and chunked_cursor() of the wrapper during a request",
            requires=("django-debug-toolbar>=6,<9",),
            databases=(SQLITE, POSTGRESQL, MARIADB),
            apps=("django.contrib.staticfiles", "debug_toolbar"),
            middleware=("debug_toolbar.middleware.DebugToolbarMiddleware",),
            settings={
                "DEBUG_TOOLBAR_CONFIG": {
                    "SHOW_TOOLBAR_CALLBACK": "tests.neighbours.probes.django_debug_toolbar.always"
                },
                "DEBUG_TOOLBAR_PANELS": ["debug_toolbar.panels.sql.SQLPanel"],
            },
        ),
        Neighbour(
            "django-mysql",
            "rewrites queries in an execute wrapper; FOUND_ROWS(), GET_LOCK(), HANDLER",
            requires=("django-mysql~=4.19",),
            databases=(MARIADB,),
            apps=("django_mysql",),
            settings={"DJANGO_MYSQL_REWRITE_QUERIES": True},
        ),
        Neighbour(
            "opentelemetry-instrumentation-psycopg",
            "wraps connect() and the cursors of the driver; a comment with a trace id in each statement",
            requires=(
                "opentelemetry-instrumentation-psycopg>=0.50b0",
                "opentelemetry-instrumentation-django>=0.50b0",
                "opentelemetry-sdk",
            ),
        ),
        Neighbour(
            "sentry-sdk",
            "replaces connect() of BaseDatabaseWrapper and execute() of CursorWrapper",
            requires=("sentry-sdk[django]~=2.0",),
            databases=(POSTGRESQL, MARIADB),
        ),
        Neighbour(
            "wrapt",
            "a tracer around ConnectionHandler.__getitem__",
            requires=("wrapt>=1.16,<3",),
            databases=(SQLITE,),
            first="tests.neighbours.probes.tracer",
        ),
        _rls("django-rls-tenants", local=False),
        _rls("django-rls-tenants, USE_LOCAL_SET", local=True),
        Neighbour(
            "django-tenants",
            "an engine of its own, which sets the search_path of a tenant",
            requires=("django-tenants~=4.0",),
            apps=("django_tenants",),
            middleware=("tests.neighbours.probes.django_tenants.main_middleware",),
            settings={
                "SHARED_APPS": [
                    "django_tenants",
                    "django.contrib.contenttypes",
                    "tests.neighbours.app.Probes",
                ],
                "TENANT_APPS": ["django.contrib.contenttypes", "tests.neighbours.app.Probes"],
                "TENANT_MODEL": "probes.Client",
                "TENANT_DOMAIN_MODEL": "probes.Domain",
                "DATABASE_ROUTERS": ["django_tenants.routers.TenantSyncRouter"],
            },
            database={"ENGINE": "django_tenants.postgresql_backend"},
        ),
        Neighbour(
            "django-pghistory",
            "triggers, and an execute wrapper that sets a local parameter in front of statements",
            requires=("django-pghistory~=3.9", "django-pgtrigger~=4.17"),
            apps=("pgtrigger", "pghistory"),
            middleware=(*AUTH, "pghistory.middleware.HistoryMiddleware"),
        ),
        Neighbour(
            "django-pglock",
            "advisory locks of the session and of the transaction, lock_timeout",
            requires=("django-pglock~=1.8", "django-pgactivity"),
            apps=("pgactivity", "pglock"),
        ),
        Neighbour(
            "django-postgres-extra",
            "an engine of its own, which creates an extension when it connects; its own SQL compilers",
            requires=("django-postgres-extra>=2.0.9,<4",),
            apps=("django.contrib.postgres", "psqlextra"),
            database={"ENGINE": "psqlextra.backend"},
        ),
        Neighbour(
            "django.contrib.postgres",
            "a type that a migration creates, known by each connection",
            apps=("django.contrib.postgres",),
            settings={"MIGRATION_MODULES": {"probes": "tests.neighbours.probes.hstore_migrations"}},
            probes="hstore",
        ),
        Neighbour(
            "psycopg.sql",
            "composed statements, bytes, COPY and cursors of the driver",
            probes="composed",
        ),
        Neighbour(
            "psycopg2.sql",
            "composed statements, COPY and cursors of the driver",
            requires=("psycopg2-binary~=2.9",),
            probes="composed",
            psycopg2=True,
            gevent=False,
        ),
        Neighbour(
            "djangorestframework",
            "RequestsClient: requests whose responses nobody closes; atomic requests that roll back",
            requires=("djangorestframework~=3.16", "requests"),
            databases=(SQLITE, MARIADB),
            apps=("rest_framework",),
            database={"ATOMIC_REQUESTS": True},
        ),
        Neighbour(
            "djangorestframework, its own tests",
            "the requests of many clients in one thread, in transactions and without",
            requires=("djangorestframework~=3.16", "requests", "pytest", "pytest-django", "dj-database-url"),
            databases=(SQLITE,),
            gevent=False,
            suite=tuple(
                f"tests/{name}"
                for name in (
                    *("authentication", "browsable_api", "test_atomic_requests.py", "test_filters.py"),
                    *(
                        "test_generics.py",
                        "test_pagination.py",
                        "test_permissions.py",
                        "test_relations_pk.py",
                    ),
                    *("test_requests_client.py", "test_testing.py", "test_viewsets.py"),
                )
            ),
        ),
        Neighbour(
            "django-dbconn-retry",
            "replaces ensure_connection() of BaseDatabaseWrapper; new credentials after a refused connect",
            requires=("django-dbconn-retry~=0.3",),
            apps=("django_dbconn_retry",),
        ),
        Neighbour(
            "django-tasks-db",
            "tasks in a table, claimed in (exclusive) transactions",
            requires=("django-tasks-db~=0.13", "django-tasks>=0.12,<1"),
            databases=(SQLITE, POSTGRESQL),
            apps=("django_tasks", "django_tasks_db"),
            settings={"TASKS": {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}},
        ),
        Neighbour(
            "django-celery-results",
            "results of tasks, written by threads of a worker",
            requires=("django-celery-results~=2.6", "celery[pytest]>=5.4"),
            apps=("django_celery_results",),
            gevent=False,
        ),
        Neighbour(
            "channels",
            "database_sync_to_async: queries of consumers in threads",
            requires=("channels~=4.3",),
            databases=(SQLITE, POSTGRESQL),
            gevent=False,
        ),
        Neighbour(
            "django-simple-history",
            "a row of history in the transaction of each change",
            requires=("django-simple-history~=3.10",),
            databases=(MARIADB,),
            apps=("simple_history",),
            middleware=(*AUTH, "simple_history.middleware.HistoryRequestMiddleware"),
        ),
        Neighbour(
            "django-reversion",
            "a transaction around each request, nested atomic blocks",
            requires=("django-reversion>=5.1,<7",),
            apps=("reversion",),
            middleware=(*AUTH, "reversion.middleware.RevisionMiddleware"),
        ),
        Neighbour(
            "django-silk",
            "writes each request and its statements into the same database",
            requires=("django-silk~=5.4",),
            databases=(POSTGRESQL, MARIADB),
            apps=("django.contrib.sessions", "silk"),
            middleware=("silk.middleware.SilkyMiddleware",),
        ),
        Neighbour(
            "django-cachalot",
            "replaces the SQL compilers, execute() of CursorWrapper and Atomic",
            requires=("django-cachalot~=2.8",),
            databases=(SQLITE, MARIADB),
            apps=("cachalot",),
        ),
        Neighbour(
            "wagtail",
            "a site and its admin, crawled by 50 clients",
            requires=("wagtail>=7,<9",),
            apps=WAGTAIL,
            middleware=(
                *AUTH,
                "django.contrib.messages.middleware.MessageMiddleware",
                "wagtail.contrib.redirects.middleware.RedirectMiddleware",
            ),
            settings={
                "WAGTAIL_SITE_NAME": "Neighbour",
                "WAGTAILADMIN_BASE_URL": "http://testserver",
                "WAGTAIL_ENABLE_UPDATE_CHECK": False,
                "WAGTAIL_ENABLE_WHATS_NEW_BANNER": False,
            },
            connections=5,
        ),
    )
}
