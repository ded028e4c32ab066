"""Servers whose way of running requests can't be pooled, and settings that mean something else here."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from django.db import connections
from django.db.utils import ConnectionHandler

from django_db_pooling import checks
from tests.behaviour.test_errors import in_process

pytestmark = pytest.mark.only("sqlite3")

# -- eventlet, and gunicorn's tornado worker -------------------------------------------------------------

# What patch() says, and what is logged when the first pool is made if the server came after it.
PATCHES = """
import logging, os, sys, types
import django; django.setup()
from django.core.exceptions import ImproperlyConfigured
from django_db_pooling import pooling
lines = []
class Lines(logging.Handler):
    def emit(self, record):
        lines.append(record.getMessage())
logging.getLogger("django_db_pooling").addHandler(Lines())
def serve():
    {serve}
words = ""
if {before}:
    serve()
try:
    pooling.patch()
except ImproperlyConfigured as error:
    words = str(error)
else:
    serve()
    from tests.behaviour.conftest import one
    one()
print(json.dumps([words, [line for line in lines if "E0" in line]]))
"""
EVENTLET = """
    patcher = sys.modules["eventlet.patcher"] = types.ModuleType("eventlet.patcher")
    patcher.is_monkey_patched = lambda module: module == {module!r}
"""
TORNADO = """
    sys.modules["gunicorn.workers.gtornado"] = types.ModuleType("gunicorn.workers.gtornado")
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = {unsafe!r}
    from django.db import connections
    connections.settings["default"]["POOL"] = {{"SCOPE": {scope!r}}}
"""


def told(serve: str, before: bool) -> Any:
    return in_process(PATCHES.format(serve=serve.strip(), before=before))


@pytest.mark.parametrize("module", ["select", "socket", "thread"])
def test_eventlet_is_refused(module: str) -> None:
    words, logged = told(EVENTLET.format(module=module), before=True)
    assert "E008" in words and "gthread" in words
    assert logged == []


def test_eventlet_that_patches_after_the_project_was_loaded_is_logged() -> None:
    words, logged = told(EVENTLET.format(module="select"), before=False)
    assert words == ""
    assert len(logged) == 1
    assert "E008" in logged[0]


def test_tornado_with_request_scope_is_refused_with_the_remedy() -> None:
    words, logged = told(TORNADO.format(unsafe="true", scope="request"), before=True)
    assert "E011" in words
    assert 'DATABASES[\'default\']["POOL"]["SCOPE"] to "transaction"' in words
    words, logged = told(TORNADO.format(unsafe="true", scope="request"), before=False)
    assert words == ""
    assert len(logged) == 1
    assert "E011" in logged[0]


@pytest.mark.parametrize(("unsafe", "scope"), [("true", "transaction"), ("", "request")])
def test_tornado_works_in_transaction_scope_and_is_django_s_to_refuse_else(unsafe: str, scope: str) -> None:
    for before in (True, False):
        assert told(TORNADO.format(unsafe=unsafe, scope=scope), before) == ["", []]


# -- CONN_MAX_AGE = 0 -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, None),
        ({"CONN_MAX_AGE": 0}, "live 3600 seconds"),
        ({"CONN_MAX_AGE": 0, "POOL": True}, "live 3600 seconds"),
        ({"CONN_MAX_AGE": 0, "AUTOCOMMIT": True, "ATOMIC_REQUESTS": False}, "live 3600 seconds"),
        ({"CONN_MAX_AGE": 0, "POOL": {"MAX_AGE": 60}}, None),
        ({"CONN_MAX_AGE": 0, "POOL": {"MAX_AGE": None}}, None),
        ({"CONN_MAX_AGE": 60}, None),
        ({"CONN_MAX_AGE": None}, None),
        ({"CONN_MAX_AGE": 0, "POOL": False}, None),
    ],
)
def test_a_deliberate_conn_max_age_of_0_is_told_of(
    monkeypatch: pytest.MonkeyPatch, said: dict[str, Any], expected: str | None
) -> None:
    database = {"ENGINE": "django.db.backends.sqlite3", **said}
    other = {"ENGINE": "django.db.backends.sqlite3"}
    # As Django completes them.
    completed = ConnectionHandler({"default": other, "aged": database}).settings
    monkeypatch.setitem(connections.settings, "aged", completed["aged"])
    found = [problem for problem in checks.advice() if problem.id == "django_db_pooling.I005"]
    assert [expected in problem.message and "'aged'" in problem.message for problem in found] == (
        [] if expected is None else [True]
    )
    [*messages] = [one for one in checks.check_pools(None) if one.id == "django_db_pooling.I005"]
    assert all(message.level == logging.INFO for message in messages)
    assert len(messages) == len(found)
