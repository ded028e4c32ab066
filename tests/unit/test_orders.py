"""Orders from one process to all of them, through files."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from django_db_pooling import orders, workers
from django_db_pooling.orders import Action, Listener, Order


@pytest.fixture(autouse=True)
def where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    path = tmp_path / "status"
    monkeypatch.setattr(workers, "directory", lambda: path)
    return path


def put(where: Path, order: Order) -> None:
    (where / f"{order.number}.order").write_text(json.dumps(asdict(order)))


def test_everybody_carries_an_order_out_once() -> None:
    listeners = [Listener() for _ in range(3)]
    order = orders.give("default", Action.RECYCLE, "boss")
    assert [listener.due() for listener in listeners] == [[order]] * 3
    assert [listener.due() for listener in listeners] == [[]] * 3
    assert list(listeners[0].obeyed) == [order.number]


def test_in_the_order_in_which_they_came() -> None:
    listener = Listener()
    given = [orders.give("default", action, "boss") for action in (Action.RECYCLE, Action.CLOSE_IDLE)]
    assert listener.due() == given
    assert orders.given() == given[::-1]


def test_who_starts_later_has_nothing_to_do_with_it() -> None:
    orders.give("default", Action.RECYCLE, "boss")
    assert Listener().due() == []


def test_what_is_old_is_not_carried_out_by_who_was_asleep(where: Path) -> None:
    listener = Listener()
    order = orders.give("default", Action.RECYCLE, "boss")
    listener._since -= 100
    put(where, replace(order, number=1, at=order.at - orders.VALID - 1))
    assert listener.due() == [order]


def test_only_the_user_can_read_them_and_old_ones_go(where: Path) -> None:
    order = orders.give("default", Action.RECYCLE, "boss")
    assert where.stat().st_mode & 0o777 == 0o700
    path = where / f"{order.number}.order"
    os.utime(path, (0, time.time() - orders.REMEMBERED - 1))
    orders.give("default", Action.RECYCLE, "boss")
    assert not path.exists()


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_where_others_can_write_nothing_counts(where: Path, mode: int) -> None:
    listener = Listener()
    order = orders.give("default", Action.RECYCLE, "boss")
    where.chmod(mode)
    assert orders.given() == listener.due() == []
    with pytest.raises(PermissionError):
        orders.give("default", Action.RECYCLE, "boss")
    where.chmod(0o700)
    assert listener.due() == [order]


def test_a_link_to_somewhere_else_is_no_directory_of_ours(where: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    where.symlink_to(tmp_path / "elsewhere")
    assert not workers.is_own(where)
    with pytest.raises(PermissionError):
        orders.give("default", Action.RECYCLE, "boss")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"number": 1}', '{"action": "drop tables"}'])
def test_what_nobody_understands_is_passed_over(where: Path, text: str) -> None:
    listener = Listener()
    order = orders.give("default", Action.CLOSE_IDLE, "boss")
    (where / "1.order").write_text(text)
    assert listener.due() == [order]
