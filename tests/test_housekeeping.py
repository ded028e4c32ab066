"""Housekeeping goes on whatever fails in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import scripts

# Connections that only the housekeeper opens and closes, and what it logs, by task.
SCRIPT = """
import collections, json, logging, time
from django.db import connection, connections
from django_db_pooling.process import housekeeper
from django_db_pooling.registry import registry
from django_db_pooling.workers.agent import agent
housekeeper.TICK = 0.02
records = []
class Handler(logging.Handler):
    def emit(self, record):
        records.append(record)
logging.getLogger("django_db_pooling").addHandler(Handler())
def eventually(condition):
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until, pooling.stats("default")
        time.sleep(0.01)
def use():
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    connection.close()
class Trouble(Exception):
    pass
broken = True
def fail(*arguments):
    if broken:
        raise Trouble
    return []
{trouble}
django.setup()
pooling.patch()
use()
eventually(lambda: pooling.stats("default").idle == 2)
# Some rounds more of the housekeeper's.
for _ in range(3):
    opened = pooling.stats("default").opened
    pooling.close_all()
    eventually(lambda: pooling.stats("default").idle == 2)
    assert pooling.stats("default").opened > opened
broken = False
eventually(lambda: {is_fine})
failed = [record for record in records if getattr(record, "pool_event", "") == "housekeeping"]
print(json.dumps(collections.Counter(record.levelname for record in failed)))
"""
WORKS_AGAIN = 'any("works again" in record.getMessage() for record in records)'
TROUBLES = {
    "something else": """
from django_db_pooling.process import upkeep
from django_db_pooling.process.tasks import Tasks
class Thing:
    name, tasks = "something else", Tasks()
    def every_second(self):
        fail()
        return False
    def forked(self):
        pass
    end = forked
thing = Thing()
upkeep.add(thing)
""",
    "reading commands": "agent._listener.due = fail",
    "telling other processes": "agent._publisher.publish = fail",
    "looking whether settings have changed": "registry._follow_settings = fail",
}


def told(trouble: str, is_fine: str, directory: Path) -> dict[str, int]:
    script = SCRIPT.format(trouble=trouble, is_fine=is_fine)
    where = directory / "status"
    where.mkdir()
    answer: dict[str, int] = json.loads(scripts.run(script, directory, DB_POOL_STATUS_DIR=str(where)))
    return answer


@pytest.mark.parametrize("trouble", TROUBLES)
def test_what_fails_keeps_nothing_else_from_being_done(trouble: str, tmp_path: Path) -> None:
    assert told(TROUBLES[trouble], WORKS_AGAIN, tmp_path) == {"ERROR": 1, "WARNING": 1}


def test_a_site_without_a_secret_key_is_looked_after(tmp_path: Path) -> None:
    """Where others tell is named after the key, where the settings don't say."""
    script = SCRIPT.format(trouble='settings.SECRET_KEY = ""', is_fine="True")
    variables = {"TMPDIR": str(tmp_path)}
    scripts.run(script, tmp_path, variables=variables, INSTALLED_APPS=["django_db_pooling"])


def test_a_handler_of_the_log_that_fails_keeps_nothing_else_from_being_done(tmp_path: Path) -> None:
    trouble = 'logging.getLogger("django_db_pooling").addFilter(lambda record: fail() == [])'
    told(trouble, "True", tmp_path)


COMMANDS = """
import json, logging
from django.db import connection
from django_db_pooling.process import housekeeper; from django_db_pooling.workers import commands
from django_db_pooling.registry import registry
from django_db_pooling.workers.agent import agent
logging.getLogger("django_db_pooling").addHandler(logging.NullHandler())
# Both are found at once.
housekeeper.TICK = 60
django.setup()
pooling.patch()
with connection.cursor() as cursor:
    cursor.execute("SELECT 1")
[pool] = registry.pools()
done = []
def fail():
    raise OSError
pool.drain, pool.recycle = fail, lambda: done.append("recycle")
for action in (commands.Action.CLOSE_IDLE, commands.Action.RECYCLE):
    commands.give("default", action, "boss")
try:
    agent.carry_out_commands()
except OSError:
    done.append("raised")
print(json.dumps(done))
"""


def test_a_command_that_fails_keeps_no_other_from_being_carried_out(tmp_path: Path) -> None:
    where = tmp_path / "status"
    where.mkdir()
    assert json.loads(scripts.run(COMMANDS, tmp_path, DB_POOL_STATUS_DIR=str(where))) == ["recycle", "raised"]


END = """
from django.db import connection
from django_db_pooling.process import upkeep
from django_db_pooling import status_dir
from django_db_pooling.workers.agent import agent
class Last:
    name = "the last"
    tasks = agent.tasks
    def end(self):
        path = status_dir.path()
        print("a report" if list(path.iterdir()) else "no report", pooling.stats("default").idle)
django.setup()
pooling.patch()
with connection.cursor() as cursor:
    cursor.execute("SELECT 1")
agent._publish()
print([thing.name for thing in upkeep._all()])
print(len(list(status_dir.path().iterdir())), pooling.stats("default").idle > 0)
last = Last()
upkeep.add(last)
"""


def test_pools_end_before_exporters(tmp_path: Path) -> None:
    where = tmp_path / "status"
    where.mkdir()
    settings = {"DB_POOL_STATUS_DIR": str(where), "DB_POOL_METRICS": ["opentelemetry"]}
    names, before, after = scripts.run(END, tmp_path, **settings).splitlines()
    assert names == str(
        [
            "connections in use",
            "a process that serves",
            "the pools",
            "the exchange with other processes",
            "the addresses of servers",
            "questions to idle connections",
            "failures of observers",
            "metrics for OpenTelemetry",
        ]
    )
    assert (before, after) == ("1 True", "no report 0")
