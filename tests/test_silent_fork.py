"""A child of which Python doesn't know is looked after, and tells of itself, as its parent is and does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests import scripts

# The parent has a pool, which is at rest, before it forks; then `in_parent`, and in the child `in_child`.
SCRIPT = """
import asyncio, logging, os, signal, threading, time
from django.db import connection, connections, transaction
from django_db_pooling.process import housekeeper, upkeep
from django_db_pooling.workers import commands, reports
from tests.concurrency import eventually, silent_fork
housekeeper.TICK = 0.02
class Handler(logging.Handler):
    def emit(self, record):
        log.append((os.getpid(), getattr(record, "pool_event", ""), record.getMessage()))
log = []
logging.getLogger("django_db_pooling").addHandler(Handler())
logging.getLogger("django_db_pooling").setLevel(logging.INFO)
def told(event):
    return [message for pid, what, message in log if (pid, what) == (os.getpid(), event)]
def use():
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    connection.close()
def stats():
    return pooling.stats("default")
{before}
at_work, look_after = threading.Lock(), upkeep._housekeeper._work
def alone():
    with at_work:
        return look_after()
upkeep._housekeeper._work = alone
django.setup()
pooling.patch()
use()
eventually(lambda: stats().idle == 2)
{at_fork}
# Who forks while others are at work leaves the child their locks.
with at_work:
    pid = silent_fork()
if pid == 0:
    signal.alarm(30)
    use()
    {in_child}
    sys.exit()
{in_parent}
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
assert status == 0, status
{afterwards}
"""


def run(directory: Path, variables: dict[str, str] | None = None, **parts: str) -> Any:
    """What the script prints, as JSON."""
    (directory / "status").mkdir(mode=0o700)
    names = ("before", "at_fork", "in_child", "in_parent", "afterwards")
    # Each in the place of its name: those of a child are indented.
    script = SCRIPT.format(
        **{
            name: parts.get(name, "pass").strip().replace("\n", "\n    " if name == "in_child" else "\n")
            for name in names
        }
    )
    told = scripts.run(script, directory, variables=variables, DB_POOL_STATUS_DIR=str(directory / "status"))
    return json.loads(told) if told else None


def test_it_opens_what_min_size_says_and_closes_what_is_recycled(tmp_path: Path) -> None:
    run(
        tmp_path,
        in_child="""
eventually(lambda: stats().idle == 2)
opened = stats().opened
assert opened == 2
pooling.recycle()
eventually(lambda: stats().idle == 2)
assert stats().opened == 4
""",
    )


def test_it_writes_its_log(tmp_path: Path) -> None:
    run(
        tmp_path,
        in_child="""
with pooling.scope("request"):
    transaction.set_autocommit(False)
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE left_open (id INTEGER)")
eventually(lambda: told("rolled_back"))
assert told("created")
""",
    )


def test_its_parent_and_it_are_heard_as_long_as_they_live(tmp_path: Path) -> None:
    run(
        tmp_path,
        before="reading, writing = os.pipe()",
        in_child="""
eventually(lambda: {os.getpid(), os.getppid()} == {one.pid for one in reports.read()})
os.read(reading, 1)
""",
        in_parent="""
eventually(lambda: {os.getpid(), pid} == {one.pid for one in reports.read()})
os.write(writing, b".")
""",
        afterwards="""
eventually(lambda: [os.getpid()] == [one.pid for one in reports.read()])
assert reports.read()[0].pools["default"].stats.checkouts == stats().checkouts
""",
    )


def test_it_carries_commands_out(tmp_path: Path) -> None:
    run(
        tmp_path,
        in_child="eventually(lambda: told('ordered'))",
        in_parent="""
eventually(lambda: pid in {one.pid for one in reports.read()})
commands.give("default", commands.Action.RECYCLE, "the test")
""",
        afterwards="eventually(lambda: told('ordered'))",
    )


def test_prometheus_is_shown_its_parent_and_it(tmp_path: Path) -> None:
    shown = run(
        tmp_path,
        before="""
import json
from prometheus_client import CollectorRegistry
from django_db_pooling.metrics import prometheus
reading, writing = os.pipe()
page = CollectorRegistry()
prometheus.register(page)
def value(name, pid):
    return page.get_sample_value("django_db_pool_" + name, {"alias": "default", "pid": str(pid)})
""",
        in_child="""
use()
use()
# Whom it asks is the same.
eventually(lambda: (value("checkouts_total", os.getpid()), value("checkouts_total", os.getppid())) == (3, 1))
os.read(reading, 1)
""",
        in_parent="""
eventually(lambda: (value("checkouts_total", pid), value("checkouts_total", os.getpid())) == (3, 1))
eventually(lambda: (value("idle", pid), value("idle", os.getpid())) == (2, 2))
os.write(writing, b".")
""",
        afterwards="""
eventually(lambda: value("checkouts_total", pid) is None)
print(json.dumps(value("checkouts_total", os.getpid())))
""",
    )
    assert shown == 1


def test_opentelemetry_gets_what_it_does(tmp_path: Path) -> None:
    run(
        tmp_path,
        before="""
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))
settings.DB_POOL_METRICS = ["opentelemetry"]
def points(name):
    found = reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
    return [point for metric in found if metric.name == "db.client.connection." + name
            for point in metric.data.data_points]
def uses():
    return sum(point.count for point in points("use_time"))
""",
        # Opening for MIN_SIZE counts, too.
        at_fork="eventually(lambda: uses() == 1 + 1)",
        in_child="""
use()
use()
# The SDK's count, which has begun in the parent.
eventually(lambda: uses() == 2 + 3 + 1)
eventually(lambda: [point.value for point in points("count")] == [0, 2])
""",
        afterwards="assert uses() == 2",
    )


def test_it_says_itself_what_fails(tmp_path: Path) -> None:
    run(
        tmp_path,
        before="""
from django_db_pooling.process import upkeep
from django_db_pooling.process.tasks import Tasks
class Thing:
    name, tasks = "something", Tasks()
    def every_second(self):
        1 / 0
    def forked(self):
        pass
    end = forked
thing = Thing()
upkeep.add(thing)
""",
        at_fork="eventually(lambda: told('housekeeping'))",
        in_child="eventually(lambda: told('housekeeping'))",
    )


def test_it_may_notice_in_a_running_event_loop(tmp_path: Path) -> None:
    """There Django forbids what uses a connection; its parent holds one."""
    run(
        tmp_path,
        at_fork="""
transaction.set_autocommit(False)
connection.ensure_connection()
async def look():
    return connections["default"].connection
use, before = (lambda: None), connection.connection
""",
        in_child="""
assert asyncio.run(look()) is None
with connection.cursor() as cursor:
    cursor.execute("SELECT 1")
""",
        afterwards="assert connection.connection is before",
    )
