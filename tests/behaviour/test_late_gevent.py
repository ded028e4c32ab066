"""gevent that patches when Django and the pool have been used: in wsgi.py, or in a worker of --preload."""

from __future__ import annotations

from typing import Any

import pytest

from tests.behaviour.test_errors import in_process

# The processes that this starts are patched by themselves.
pytestmark = pytest.mark.only("threads")

BEGIN = """
import warnings
warnings.simplefilter("ignore")
settings.DATABASES["default"]["POOL"] = {"SIZE": 3, "MAX_OUTSTANDING": 3, "MIN_SIZE": MIN_SIZE}
import django; django.setup()
import time
from django.core import signals
from django.db import connection
from django_db_pooling import pooling
pooling.patch()
MYSQL = connection.vendor == "mysql"
NUMBER = "CONNECTION_ID()" if MYSQL else "pg_backend_pid()"
ID = f"SELECT {NUMBER}"
OF_POSTGRESQL = f"SELECT pid, version FROM pg_stat_ssl WHERE pid = {NUMBER}"
TLS = "SHOW STATUS LIKE 'Ssl_version'" if MYSQL else OF_POSTGRESQL
SLEEP = "SELECT SLEEP(0.1)" if MYSQL else "SELECT pg_sleep(0.1)"

def ask(sql, *params):
    with connection.cursor() as cursor:
        cursor.execute(sql, params or None)
        return cursor.fetchone()

def request(number):
    signals.request_started.send(None, environ={"REQUEST_METHOD": "GET", "PATH_INFO": f"/{number}"})
    try:
        assert ask("SELECT %s", f"token {number}") == (f"token {number}",)
        ask(SLEEP)
        assert ask("SELECT %s", f"token {number}") == (f"token {number}",)
        return ask(ID)[0], ask(TLS)[1]
    finally:
        signals.request_finished.send(None)

def requests(count):
    import gevent
    jobs = [gevent.spawn(request, number) for number in range(count)]
    gevent.joinall(jobs)
    return [job.get() for job in jobs]

def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)

"""
PATCH = "from gevent import monkey; monkey.patch_all()\n"


def told_by(code: str, min_size: int = 0) -> Any:
    return in_process(BEGIN.replace("MIN_SIZE}", f"{min_size}}}") + code)


@pytest.mark.only("pymysql", "psycopg", "psycopg2")
@pytest.mark.parametrize("forks", [False, True], ids=["in the same process", "in a fork"])
def test_requests_after_the_patch_have_connections_of_their_own(forks: bool) -> None:
    """One that is idle works in native threads only, and so does the TLS context that opened it."""
    before = "before = ask(ID)[0]\n"
    fork = """
pid = os.fork()
if pid:
    os.waitpid(pid, 0)
    os._exit(0)
"""
    after = """
answers = requests(8)
stats = pooling.stats("default")
print(json.dumps([before, answers, stats.in_use, stats.idle, stats.broken, stats.timeouts]), flush=True)
"""
    first, answers, in_use, idle, broken, timeouts = told_by(before + fork * forks + PATCH + after)
    numbers = {number for number, _ in answers}
    assert {version for _, version in answers} == {"TLSv1.3"}
    assert first not in numbers
    assert len(numbers) <= idle <= 3
    assert (in_use, broken, timeouts) == (0, 0, 0)


@pytest.mark.only("pymysql")
def test_what_is_opened_for_min_size_after_the_patch_serves_requests() -> None:
    """The housekeeper has begun as a native thread, and what it opened would only work there."""
    code = (
        """
ask(ID)
until(lambda: pooling.stats("default").idle == 2)
"""
        + PATCH
        + """
requests(1)
pooling.close_all("default")
until(lambda: pooling.stats("default").idle == 2)
opened = pooling.stats("default").opened
requests(2)
print(json.dumps(pooling.stats("default").opened - opened))
"""
    )
    assert told_by(code, min_size=2) == 0
