"""Requests that change their sessions in every way, and look whether they see somebody else's."""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from django.db import Error, connection, transaction
from django.http import HttpRequest, HttpResponse, JsonResponse

from tests import ways
from tests.site.views import sleep_in_database

# How a request ends, if it isn't told to end well: by itself, by an error, by a timeout that nobody handles,
# by one that the view handles, killed.
ENDS = ("well", "well", "well", "boom", "timeout", "caught", "kill")
PAUSE = 0.02
MOST_SECONDS = 0.08

_numbers = itertools.count(1)
_counts: Counter[str] = Counter()
# What a new session shows.
_new: dict[str, Any] = {}


class Boom(Exception):
    """As meant."""


class Crossing(Exception):
    """Somebody has seen what isn't theirs."""


def as_new(request: HttpRequest) -> HttpResponse:
    """What this session shows is what the first one did that was asked."""
    found = {way.at_first: look(way.at_first, "nobody") for way in all_ways()}
    expect(found, _new.setdefault("all", found), "as new")
    return JsonResponse(found)


def counts(request: HttpRequest) -> JsonResponse:
    """How many requests have done what."""
    return JsonResponse(_counts)


def attack(request: HttpRequest) -> HttpResponse:
    """Look for traces of others, leave some in one way, wait, look at them. ``end``: "well" or any."""
    mine = f"mine {next(_numbers)}"
    end = "well" if request.GET["end"] == "well" else random.choice(ENDS)
    _counts[end] += 1
    danger = Danger(end)
    try:
        danger.is_here("at first")
        visit(mine, end, danger)
    except BaseException as error:
        if end == "caught" and error is danger.timeout:
            go_on(mine)
        elif not isinstance(error, Error) or not danger.has_struck(error):
            raise
        else:
            _counts["lost"] += 1
    finally:
        danger.end()
    _counts["finished"] += 1
    return HttpResponse(mine)


class Danger:
    """What ends a request at some moment after it has begun."""

    def __init__(self, end: str) -> None:
        import gevent

        self._seconds = MOST_SECONDS * random.random()
        # Most of them when there is a connection, which may take its time to come.
        self._where = random.choice(["at first", "before the change", "after the change", "after the change"])
        self._kills = end == "kill"
        self._killer: Any = None
        self._strokes = (gevent.Timeout, gevent.GreenletExit)
        self.timeout = gevent.Timeout(self._seconds if end in ("timeout", "caught") else None)

    def is_here(self, where: str) -> None:
        import gevent

        if where == self._where:
            self.timeout.start()
            if self._kills:
                self._killer = gevent.spawn_later(self._seconds, gevent.getcurrent().kill, block=False)

    def end(self) -> None:
        self.timeout.close()
        if self._killer is not None:
            self._killer.kill(block=False)

    def has_struck(self, error: BaseException | None) -> bool:
        """Whether an error is of a connection that was lost to it."""
        while error is not None and not isinstance(error, self._strokes):
            error = error.__context__
        return error is not None


def visit(mine: str, end: str, danger: Danger) -> None:
    expect_nobody(mine)
    way = random.choice(all_ways())
    in_a_block = way.can_be_in_a_block and random.random() < 0.3
    danger.is_here("before the change")
    with transaction.atomic() if in_a_block else nullcontext():
        for statement in way.change:
            ask(statement.format(mine), has_rows=False)
        danger.is_here("after the change")
        pause()
    told = look(way.look, mine)
    if not way.is_own(told, mine):
        raise Crossing(f"{way.look}: {told!r} in {mine!r}, {in_a_block=}")
    if end == "boom" and random.random() < 0.5:
        raise Boom
    pause()
    if way.can_be_in_a_block and random.random() < 0.2:
        with transaction.atomic():
            expect(look(way.look, mine), told, way.look)
    expect(look(way.look, mine), told, way.look)
    expect_nobody(mine, but=way)
    _counts[way.look] += 1
    if end == "boom":
        raise Boom


def go_on(mine: str) -> None:
    """After a timeout: it has the session that it had, or a new one, or none where a transaction was lost."""
    try:
        pause()
        for way in random.sample(all_ways(), 3):
            told = look(way.at_first, mine)
            # Where a way doesn't say whose it is, it may be one's own.
            if told != _new["all"][way.at_first] and not way.is_own(told, mine):
                raise Crossing(f"{way.at_first}: {told!r} in {mine!r} after a timeout")
    except Error:
        _counts["lost"] += 1


def expect_nobody(mine: str, but: ways.Way | None = None) -> None:
    for way in random.sample(all_ways(), 3):
        if way != but:
            expect(look(way.at_first, mine), _new["all"][way.at_first], way.at_first)


def expect(found: Any, expected: Any, what: str) -> None:
    if found != expected:
        raise Crossing(f"{what}: {found!r} instead of {expected!r}")


def all_ways() -> list[ways.Way]:
    return ways.of(connection)


def look(text: str, mine: str) -> Any:
    return ways.look(ask, text, mine)


def ask(statement: str, has_rows: bool = True) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()[0] if has_rows else None


def pause() -> None:
    """Something slow, elsewhere or in the database, or nothing."""
    slow: Callable[[float], None] = random.choice([time.sleep, time.sleep, sleep_in_database, lambda _: None])
    slow(PAUSE * random.random())
