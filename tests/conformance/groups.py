"""Which parts of Django's test suite are run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Group:
    """Labels that are run in one process.

    With ``transactions`` off, Django is told that no database supports transactions. Then TestCase doesn't
    wrap each test in one, and all that happens in a test happens as in production.
    """

    name: str
    labels: tuple[str, ...]
    transactions: bool = True


GROUPS = {
    group.name: group
    for group in (
        Group(
            "suite",
            (
                *("backends", "transactions", "transaction_hooks", "select_for_update", "basic", "db_utils"),
                *("delete", "queries", "raw_query", "test_client", "test_runner", "test_utils", "servers"),
                *("requests_tests", "handlers", "sessions_tests", "cache", "admin_views", "auth_tests"),
                *("migrations", "schema", "introspection", "inspectdb", "multiple_database", "async"),
                "fixtures",
            ),
        ),
        Group(
            "autocommit",
            ("basic", "queries", "delete", "auth_tests", "sessions_tests", "cache", "multiple_database"),
            transactions=False,
        ),
    )
}
