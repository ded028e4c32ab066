"""That requests leave nothing behind, not even for the garbage collector: on a stub driver, without it."""

from __future__ import annotations

import pytest

from tests.stubbed import figures

VARIANTS = ("django_db_pooling", "django_db_pooling, transactions")
REQUESTS, WARM_UP = 100_000, 20_000
# One object for each request would need 48 bytes or more.
MOST_BYTES = 16


@pytest.mark.parametrize("at_once", [1, 100])
@pytest.mark.parametrize("work", [(), ("--transaction",)], ids=["query", "atomic"])
@pytest.mark.parametrize("database", ["mysql", "postgresql"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_waits_for_the_collector(
    variant: str, database: str, work: tuple[str, ...], at_once: int
) -> None:
    arguments = [database, *work, f"--at-once={at_once}", "--cycles", "--warm-up=400", "--requests=600"]
    assert figures("memory", variant, *arguments) == {}


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("variant", "database"), [(VARIANTS[0], "mysql"), (VARIANTS[1], "postgresql")])
def test_memory_is_flat(variant: str, database: str) -> None:
    arguments = [database, f"--requests={REQUESTS}", f"--warm-up={WARM_UP}"]
    memory = figures("memory", variant, *arguments, seconds=500)
    assert (memory["last"] - memory["first"]) / (REQUESTS - WARM_UP) < MOST_BYTES, memory
