"""Orders from one process to all of them, through files."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from django_db_pooling import status_dir
from django_db_pooling.workers import commands
from django_db_pooling.workers.commands import KEPT, VALID, Action, Command, Listener
from tests.concurrency import in_threads


@pytest.fixture(autouse=True)
def where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    settings = SimpleNamespace(DB_POOL_STATUS_DIR=tmp_path, SECRET_KEY="only for tests")
    monkeypatch.setattr(status_dir, "settings", settings)
    monkeypatch.setattr(status_dir, "_ignored", set())
    return status_dir.path()


class Wall:
    """What time.time() says is set by the test; time.monotonic() goes on by what ``passes``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.clock = time.time(), time.monotonic()
        monkeypatch.setattr(time, "time", lambda: self.now)
        monkeypatch.setattr(time, "monotonic", lambda: self.clock)

    def passes(self, seconds: float) -> None:
        self.now += seconds
        self.clock += seconds

    def give(self, where: Path) -> Command:
        command = give()
        self.put(where, command)
        return command

    def put(self, where: Path, command: Command) -> None:
        put(where, command)
        # The file system keeps another time.
        os.utime(file(where, command), (self.now, self.now))


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    return Wall(monkeypatch)


def file(where: Path, command: Command) -> Path:
    return where / f"django_db_pooling-command-{command.id}.json"


def put(where: Path, command: Command) -> None:
    file(where, command).write_text(json.dumps(asdict(command)))


def give() -> Command:
    return commands.give("default", Action.RECYCLE, "boss")


def test_everybody_carries_a_command_out_once() -> None:
    listeners = [Listener() for _ in range(3)]
    command = give()
    assert [listener.due() for listener in listeners] == [[command]] * 3
    assert [listener.due() for listener in listeners] == [[]] * 3
    assert list(listeners[0].carried_out) == [command.id]


def test_each_once_however_many_there_are() -> None:
    """While all of them are valid still."""
    listener = Listener()
    given = [give() for _ in range(100)]
    assert listener.due() == given
    for _ in range(3):
        given.append(give())
        assert listener.due() == given[-1:]
    assert listener.due() == []


def test_commands_of_the_same_instant_are_two(monkeypatch: pytest.MonkeyPatch) -> None:
    listener = Listener()
    now, nanoseconds = time.time(), time.time_ns()
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: now)
        patch.setattr(time, "time_ns", lambda: nanoseconds)
        given = in_threads([give] * 20)
    assert len({command.id for command in given}) == 20
    assert sorted(command.id for command in listener.due()) == sorted(command.id for command in given)


def test_in_the_order_in_which_they_came() -> None:
    listener = Listener()
    given = [commands.give("default", action, "boss") for action in (Action.RECYCLE, Action.CLOSE_IDLE)]
    assert listener.due() == given
    assert commands.given() == given[::-1]


def test_who_starts_later_has_nothing_to_do_with_it() -> None:
    give()
    assert Listener().due() == []


def test_what_is_old_is_not_carried_out_by_who_was_asleep(where: Path, wall: Wall) -> None:
    listener = Listener()
    wall.passes(100)
    command = wall.give(where)
    wall.put(where, replace(command, id=status_dir.new_id(1), at=command.at - VALID - 1))
    assert listener.due() == [command]


def test_what_was_carried_out_is_forgotten_with_its_file(where: Path, wall: Wall) -> None:
    listener = Listener()
    wall.passes(1)
    command = wall.give(where)
    assert listener.due() == [command]
    wall.passes(VALID)
    assert listener.due() == [] and commands.given() == [command]
    assert list(listener.carried_out) == [command.id]
    wall.passes(KEPT)
    assert listener.due() == commands.given() == []
    assert list(where.iterdir()) == []
    assert listener.carried_out == {}


@pytest.mark.parametrize("seconds", [-86_400, -5, 5, 86_400])
def test_once_also_when_the_clock_is_set(wall: Wall, where: Path, seconds: float) -> None:
    """There and back, while the files lie there."""
    listener = Listener()
    wall.passes(60)
    first = wall.give(where)
    assert listener.due() == [first]
    wall.now += seconds
    second = wall.give(where)
    assert listener.due() == [second]
    for step in (-seconds, 0, seconds, 0):
        wall.now += step
        for command in (first, second):
            wall.put(where, command)
        assert listener.due() == []
        wall.passes(VALID / 5)


def test_a_command_from_the_future_does_not_live_for_ever(where: Path, wall: Wall) -> None:
    listener = Listener()
    command = wall.give(where)
    wall.now -= 86_400
    wall.passes(1)
    assert listener.due() == commands.given() == []
    assert not file(where, command).exists()


def test_a_clock_that_was_set_back_after_the_start_hides_no_command(where: Path, wall: Wall) -> None:
    listener = Listener()
    wall.now -= 86_400
    wall.clock += 1
    command = wall.give(where)
    assert listener.due() == [command]


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_where_others_can_write_nothing_counts(where: Path, mode: int) -> None:
    """And what was carried out stays so."""
    listener = Listener()
    command = give()
    assert listener.due() == [command]
    later = give()
    where.chmod(mode)
    assert commands.given() == listener.due() == []
    with pytest.raises(OSError, match="open to other users"):
        give()
    where.chmod(0o700)
    assert listener.due() == [later]


def test_who_gave_it_is_told_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "django_db_pooling")
    command = commands.give("default", Action.RECYCLE, "boss\nERROR forged")
    assert "\n" not in command.by
    assert len(caplog.messages) == 1 and "\n" not in caplog.messages[0]


TEXTS = [
    "",
    "{",
    "[]",
    "null",
    '{"id": "1"}',
    '{"action": "drop tables"}',
    "[" * 100_000,
    "\x00\xff",
    "1" * 9999,
]


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_no_command_is_ignored(where: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    listener = Listener()
    command = commands.give("default", Action.CLOSE_IDLE, "boss")
    other = file(where, replace(command, id=status_dir.new_id(1)))
    other.write_text(text)
    assert listener.due() == [command]
    assert listener.due() == [] and commands.given() == [command]
    assert caplog.text.count(other.name) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "1-" + "0" * 32},
        {"id": 7},
        {"at": "now"},
        {"at": float("nan")},
        {"at": 10**400},
        {"at": None},
        {"at": True},
        {"alias": ["default"]},
        {"action": "drop"},
        {"action": []},
        {"by": "\ud800"},
        {"more": 1},
    ],
)
def test_a_command_of_wrong_types_is_ignored(where: Path, wrong: dict[str, object]) -> None:
    listener = Listener()
    command = give()
    one = status_dir.new_id(1)
    path = where / f"django_db_pooling-command-{one}.json"
    path.write_text(json.dumps(asdict(command) | {"id": one} | wrong))
    assert listener.due() == [command]
    assert commands.given() == [command]
