"""The pool is of use without Django; what it does at the end of a process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

USE = """
import sys
sys.modules["django"] = None
from django_db_pooling.pool import CheckoutTimeout, Pool
from django_db_pooling.pool.limits import Limits

class Driver:
    ends_elsewhere = False
    def hub(self): return None
    def alive(self, connection): return True
    def cut(self, connection): connection.append("cut")
    def drop(self, connection): connection.append("dropped")
    def close(self, connection, close_wait): connection.append("closed")

pool = Pool("plain", Limits(size=1, max_outstanding=1), Driver())
slot = pool.checkout()
slot.connection = []
pool.opened(slot)
try:
    pool.checkout(0.0)
except CheckoutTimeout as error:
    assert "'plain'" in str(error)
else:
    raise AssertionError
pool.checkin(slot)
again = pool.checkout(0.0)
assert again is slot
"""


def run(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], cwd=ROOT, text=True, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_a_pool_can_be_used_where_django_is_not_installed() -> None:
    assert run(USE + "pool.close(slot); assert not any(m.startswith('django.') for m in sys.modules)") == ""


def test_gevent_is_not_imported_by_the_pool() -> None:
    assert run(USE + "assert 'gevent' not in sys.modules") == ""


def test_a_process_ends_without_a_word_while_connections_are_idle_and_in_use() -> None:
    """At the end of the interpreter, finalizers find modules taken apart."""
    assert (
        run(USE + "bare = Pool('other', Limits(), Driver()).checkout(); cycle = [again]; cycle.append(cycle)")
        == ""
    )
