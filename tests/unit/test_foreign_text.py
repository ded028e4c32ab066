"""Where text of others enters it is made printable and short; where it is told, it has no secrets."""

from __future__ import annotations

import logging
import re
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import django_db_pooling
from django_db_pooling import conf, handler, owner, status_dir
from django_db_pooling.capacity import Share
from django_db_pooling.log import MAX_LABEL, MAX_LENGTH
from django_db_pooling.management import table
from django_db_pooling.pool.holders import Holding, request_label
from django_db_pooling.pool.journal import Journal
from django_db_pooling.process import program
from django_db_pooling.process.housekeeper import Housekeeper
from django_db_pooling.workers import commands
from django_db_pooling.workers.commands import Action
from tests.concurrency import eventually, in_thread
from tests.unit.fakes import PASSED, FakePool
from tests.unit.test_overview import pool_report, report, seen

SECRET = "s3cr3t-c4n4ry"
ODD = "x\n\x1b]0;title\x07\u202e"
SHOWN = r"x\n\x1b]0;title\x07\u202e"
LINE = r"x \x1b]0;title\x07\u202e"
SOURCES = {
    path.relative_to(Path(django_db_pooling.__file__).parent).as_posix(): path.read_text()
    for path in Path(django_db_pooling.__file__).parent.rglob("*.py")
}


def label_of(**request: Any) -> str | None:
    """What a request that begins with this is told by."""

    def begin() -> str | None:
        handler._request_started(**request)
        return owner.current().holder.request

    told: str | None = in_thread(begin)
    return told


# -- requests -------------------------------------------------------------------------------------------


def wsgi(path: str) -> str:
    """As PEP 3333 has it."""
    return path.encode().decode("latin-1")


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/plain", "GET /plain"),
        ("", "GET /"),
        (wsgi("/straße/日本/😀"), "GET /straße/日本/😀"),
        ("/broken/\xff", "GET /broken/%FF"),
        ("/x\nERROR forged", r"GET /x\nERROR forged"),
        ("/\x1b]0;title\x07", r"GET /\x1b]0;title\x07"),
        (wsgi("/\u202e\u2028"), r"GET /\u202e\u2028"),
        ("/not latin \u65e5", "GET /not latin \u65e5"),
    ],
)
def test_a_path_is_told_as_views_see_it(path: str, told: str) -> None:
    assert label_of(environ={"REQUEST_METHOD": "GET", "PATH_INFO": path}) == told


def test_a_path_of_an_event_loop_is_decoded_already_and_may_be_anything() -> None:
    assert label_of(scope={"method": "GET", "path": "/straße"}) == "GET /straße"
    assert label_of(scope={"method": "GET", "path": f"/{ODD}\ud800"}) == rf"GET /{SHOWN}\ud800"
    assert label_of(scope={"type": "lifespan"}) == "None None"


def test_a_label_is_short_whatever_the_path_is() -> None:
    for path in (":" * 4_000, "\x1b" * 4_000, wsgi("é" * 4_000)):
        told = label_of(environ={"REQUEST_METHOD": "G" * 300, "PATH_INFO": f"/{path}"})
        assert told is not None
        assert len(told) <= MAX_LABEL
        assert told.isprintable()


# -- holders ----------------------------------------------------------------------------------------------


def holding(path: str, thread: str, file: str = "views.py") -> Holding:
    """Of code in that file, in a request that is still at work."""
    frames: list[Any] = []
    exec(compile("frames.append(sys._getframe())", file, "exec"), {"frames": frames, "sys": sys})
    made: list[Holding] = []
    named, told = threading.Event(), threading.Event()

    def work() -> None:
        handler._request_started(scope={"method": "GET", "path": path})
        holder = owner.current().holder
        holder.ident = threading.get_ident()
        made.append(Holding(holder, frames[0]))
        named.set()
        told.wait(30)

    worker = threading.Thread(target=work, name=thread, daemon=True)
    worker.start()
    assert named.wait(30)
    _threads.append((worker, told))
    return made[0]


_threads: list[tuple[threading.Thread, threading.Event]] = []


@pytest.fixture(autouse=True)
def end_of_threads() -> Any:
    yield
    for worker, told in _threads:
        told.set()
        worker.join()
    _threads.clear()


def test_holders_are_told_in_one_line_to_everybody(caplog: pytest.LogCaptureFixture) -> None:
    pool = FakePool(size=1, max_outstanding=1)
    slot = pool.take_now(holding(f"/password={SECRET}/{ODD}", f"job {ODD}", f"code {ODD}"))
    [(_, who)] = pool.held()
    assert who == rf"GET /password=*** in thread job {SHOWN}, taken at code {SHOWN}:1"
    with pytest.raises(django_db_pooling.pool.CheckoutTimeout) as caught:
        pool.checkout(PASSED)
    assert who in str(caught.value)
    slot.taken_at -= 1
    pool.maintenance._log_long_holders(0.5)
    pool.maintain()
    held = [record.getMessage() for record in caplog.records if "held for" in record.getMessage()]
    assert held == [f"default: connection held for 1.0 s by {who}"]
    for text in (str(caught.value), pool.journal.troubles[-1].error, *caplog.messages):
        assert text.isprintable()
        assert SECRET not in text
    assert request_label(slot.holder) == "GET /password=***"
    pool.give(slot)


def test_a_holder_that_cannot_say_who_it_is_stops_nobody() -> None:
    class Odd:
        def __str__(self) -> str:
            raise RuntimeError

    pool = FakePool(size=1, max_outstanding=1)
    slot = pool.take_now(Odd())
    assert [who for _, who in pool.held()] == ["Odd"]
    pool.give(slot)


# -- servers, settings, the environment, people -------------------------------------------------------------


def test_an_alias_that_somebody_else_has_named_forges_no_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "django_db_pooling")
    journal = Journal(f"tenant {ODD}")
    journal.note("dead")
    journal.write()
    assert caplog.messages == [rf"tenant {LINE}: idle connection found broken"]
    assert Share(f"a{ODD}", 3).named(3) == rf"a{SHOWN} 3"


def test_who_gives_a_command_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    where = SimpleNamespace(DB_POOL_STATUS_DIR=tmp_path, SECRET_KEY=SECRET)
    monkeypatch.setattr(status_dir, "settings", where)
    caplog.set_level(logging.INFO, "django_db_pooling")
    command = commands.give("default", Action.RECYCLE, f"boss {ODD}")
    assert command.by == rf"boss {LINE}"
    assert commands.given() == [command]
    assert caplog.messages == [rf"default: recycle requested by boss {LINE}"]


def test_settings_are_shown_without_passwords() -> None:
    for value in (f"postgres://app:{SECRET}@db", [{"PASSWORD": SECRET}], "x" * 100_000):
        told = "".join(problem.message for problem in conf.problems("default", {"POOL": value}))
        told += "".join(problem.message for problem in conf.problems("default", {"POOL": {"SIZE": value}}))
        assert told
        assert SECRET not in told
        assert len(told) < 3 * MAX_LENGTH


def test_the_name_of_a_program_is_a_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [f"/usr/bin/{ODD.replace('/', '')}{'x' * 1_000}"])
    assert program.name().startswith(SHOWN)
    assert len(program.name()) == MAX_LABEL


def test_a_terminal_gets_nothing_to_obey_whatever_a_file_says() -> None:
    part = pool_report(held=[(1.0, f"GET /{ODD}")], troubles=[(1.0, f"kind{ODD}", f"error {ODD}")])
    told = table.table(seen(report(1, **{f"alias{ODD}": part})), 200)
    assert all(line.isprintable() for line in told.split("\n"))
    assert f"GET /{SHOWN}" in told
    assert f"error {SHOWN}" in told


def test_where_housekeeping_has_failed_is_told_without_source(caplog: pytest.LogCaptureFixture) -> None:
    looks: list[bool] = []

    def work() -> bool:
        looks.append(True)
        if len(looks) == 1:
            raise OSError(f"password={SECRET} {ODD}")
        return False

    Housekeeper(work).ensure_running()
    eventually(lambda: "trying again" in caplog.text)
    told = caplog.messages[0]
    first, *frames = told.split("\n")
    assert first == rf"housekeeping failed, trying again: OSError: password=*** {LINE}"
    assert re.fullmatch(r"  .+test_foreign_text\.py:\d+ in work", frames[-1])
    assert all(line.isprintable() for line in frames)


def test_no_error_is_told_as_it_is() -> None:
    """Redacted errors have other names."""
    for name, source in SOURCES.items():
        found = re.findall(
            r"\{error(?:!.)?\}|exc_info=|logger\.exception|traceback\.(?:format|print)", source
        )
        assert not found, (name, found)
