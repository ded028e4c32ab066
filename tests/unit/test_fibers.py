"""The fibers that other tests' schedules are made of: both kinds do the same."""

from __future__ import annotations

import threading

import pytest

from tests.unit.fakes import Interrupt
from tests.unit.fibers import Fiber, GreenFiber, ThreadFiber, Wrong, never_switching, suspend

pytestmark = pytest.mark.parametrize("kind", [GreenFiber, ThreadFiber])


def test_a_fiber_stops_at_each_point_until_it_is_told_to_go_on(kind: type[Fiber]) -> None:
    done: list[str] = []

    def work() -> None:
        for point in "abc":
            suspend(point)
            done.append(point)

    fiber = kind(work)
    assert (fiber.point, done) == (None, [])
    fiber.go_on()
    assert (fiber.point, done) == ("a", [])
    fiber.go_on()
    assert (fiber.point, done) == ("b", ["a"])
    fiber.go_on()
    fiber.go_on()
    assert (fiber.point, done, fiber.is_over) == (None, ["a", "b", "c"], True)


def test_an_exception_strikes_at_the_point_where_the_fiber_stopped(kind: type[Fiber]) -> None:
    struck: list[str] = []

    def work() -> None:
        suspend("before")
        try:
            suspend("inside")
        except Interrupt:
            struck.append("inside")
            suspend("cleaning up")

    fiber = kind(work)
    fiber.go_on()
    fiber.go_on()
    fiber.go_on(Interrupt())
    assert (fiber.point, struck) == ("cleaning up", ["inside"])
    with pytest.raises(Interrupt):
        fiber.go_on(Interrupt())
    assert fiber.is_over


def test_fibers_take_turns_and_only_one_runs(kind: type[Fiber]) -> None:
    turns: list[tuple[int, int]] = []

    def work(number: int) -> None:
        for turn in range(3):
            assert Fiber.running is fibers[number]
            turns.append((turn, number))
            suspend("here")

    fibers = [kind(lambda number=number: work(number)) for number in range(3)]  # type: ignore[misc]
    while not all(fiber.is_over for fiber in fibers):
        for fiber in fibers:
            fiber.go_on()
    assert turns == [(turn, number) for turn in range(3) for number in range(3)]
    assert Fiber.running is None


def test_what_never_switches_must_not_be_suspended(kind: type[Fiber]) -> None:
    def work() -> None:
        with never_switching():
            suspend("here")

    with pytest.raises(Wrong, match="never switches"):
        kind(work).go_on()
    assert Fiber.unbroken == 0


def test_only_thread_fibers_have_a_thread_of_their_own(kind: type[Fiber]) -> None:
    idents: list[int] = []
    kind(lambda: idents.append(threading.get_ident())).go_on()
    assert (idents[0] == threading.get_ident()) is (kind is GreenFiber)


def test_who_is_in_no_fiber_is_not_suspended(kind: type[Fiber]) -> None:
    suspend("nowhere")
