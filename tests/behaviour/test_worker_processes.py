"""Worker processes that end by os._exit(), as those of multiprocessing do, say goodbye to the server."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from tests.behaviour.test_errors import in_process

# How many clients the server says have ended without a word, before and after the children.
ABORTED = """
import multiprocessing, sys, types
from tests.behaviour.conftest import connections, eventually, held, in_thread, one, plain, request_started
from django_db_pooling import pooling

def aborted():
    with plain() as wrapper, wrapper.cursor() as cursor:
        cursor.execute("SHOW GLOBAL STATUS LIKE 'Aborted_clients'")
        return int(cursor.fetchone()[1])

def others():
    with plain() as wrapper, wrapper.cursor() as cursor:
        cursor.execute("SELECT COUNT(*) FROM information_schema.processlist WHERE db = DATABASE()")
        return int(cursor.fetchone()[0]) - 1

def work():
    in_thread(one)
    with connections["default"].cursor() as cursor:
        cursor.execute("SET @changed = 1")
    request_started()
    one()

pooling.patch()
work()
connections.close_all()
before = aborted()
"""


@pytest.mark.only("pymysql", "mysqlclient")
@pytest.mark.parametrize("children", ["a process", "a child of it", "an executor", "one that fails"])
def test_those_of_multiprocessing_end_as_the_protocol_wants_it(children: str) -> None:
    told = in_process(
        ABORTED
        + """
context = multiprocessing.get_context("fork")
children = """
        + json.dumps(children)
        + """

def with_a_child():
    work()
    child = context.Process(target=work)
    child.start()
    child.join()

def fail():
    work()
    sys.stderr = open(os.devnull, "w")
    raise ZeroDivisionError

if children == "an executor":
    from concurrent.futures import ProcessPoolExecutor
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        [done.result() for done in [executor.submit(work) for _ in range(4)]]
else:
    target = {"a process": work, "a child of it": with_a_child, "one that fails": fail}[children]
    processes = [context.Process(target=target) for _ in range(3)]
    [process.start() for process in processes]
    [process.join() for process in processes]
idle = pooling.stats("default").idle
eventually(lambda: others() == idle)
print(json.dumps([before, aborted()]))
"""
    )
    assert told[0] == told[1]


@pytest.mark.only("pymysql", "mysqlclient")
@pytest.mark.never("pymysql", "gevent")
@pytest.mark.never("mysqlclient", "gevent")
def test_without_a_goodbye_the_server_would_count_them() -> None:
    """That the other tests can fail."""
    told = in_process(
        ABORTED
        + """
pid = os.fork()
if pid == 0:
    work()
    os._exit(0)
os.waitpid(pid, 0)
eventually(lambda: aborted() > before)
print(json.dumps(True))
"""
    )
    assert told


def signalled_by_celery() -> Any:
    return in_process(
        """
import sys, types
from django.dispatch import Signal
signals = sys.modules["celery.signals"] = types.ModuleType("celery.signals")
signals.worker_process_shutdown = Signal()
from tests.behaviour.conftest import in_thread, one
from django_db_pooling import pooling
pooling.patch()
in_thread(one)
from tests.behaviour.conftest import eventually
eventually(lambda: pooling.stats("default").idle == 1)
signals.worker_process_shutdown.send(sender=None, pid=os.getpid(), exitcode=0)
print(json.dumps(pooling.stats("default").idle))
"""
    )


def test_celery_s_end_by_its_signal() -> None:
    """Its pool ends them by os._exit(), without finalizers. Its signal is called as Django's are."""
    assert os.environ["DJANGO_SETTINGS_MODULE"]
    assert signalled_by_celery() == 0
