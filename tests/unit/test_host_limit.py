"""HOST_LIMIT: pools in several real processes that share a real file. The connections are none."""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.calls import counting
from django_db_pooling.pool import host, host_bytes, slots
from django_db_pooling.pool.host_bytes import Bytes
from django_db_pooling.pool.waiter import CheckoutTimeout
from django_db_pooling.process.record_locks import RecordLocks
from tests.concurrency import in_child
from tests.unit.fakes import Caller, FakePool, interrupted_at, until
from tests.unit.host_worker import Seen, Worker, finder, worker
from tests.unit.other_process import OtherProcess

PACKAGE = "/django_db_pooling/"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "locks"


@pytest.fixture
def seen(path: Path) -> Iterator[Seen]:
    yield Seen(path)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has to be waited for is over: for whatever may be interrupted, and for finalizers."""
    monkeypatch.setattr(host_bytes, "INTERRUPTED", 0.0)
    monkeypatch.setattr(slots, "FINALIZER_TIME", 0.0)


def test_all_together_have_no_more(path: Path, seen: Seen) -> None:
    with worker(path, 5) as one, worker(path, 5) as two:
        assert one.do("open", 3) == 3
        assert two.do("open", 3) == 2
        assert seen.open == 5
        assert one.do("open") == two.do("open") == 0
        two.do("close")
        assert seen.open == 4
        assert one.do("open") == 1
        assert seen.open == 5 == one.do("open_at_server") + two.do("open_at_server")


def test_kill_frees_what_a_process_had(path: Path, seen: Seen) -> None:
    with worker(path, 4) as one, worker(path, 4) as two:
        assert one.do("open", 4) == 4
        assert two.do("open") == 0
        one.kill()
        assert seen.open == 0
        assert two.do("open", 5) == 4


def test_an_idle_one_still_counts(path: Path, seen: Seen) -> None:
    with worker(path, 4) as one, worker(path, 4) as two:
        one.do("open", 3)
        one.do("give", 3)
        assert seen.open == 3
        assert two.do("open", 4) == 1
        # The next checkout finds it, and needs no byte.
        assert one.do("open", 4) == 3


def test_a_forked_child_has_none_of_its_parent_s(path: Path, seen: Seen) -> None:
    parent = Worker(path, 4)
    assert parent.open(3) == 3
    with OtherProcess(lambda: Worker(path, 4)) as child:
        assert child.do("open", 4) == 1
        assert parent.open() == 0
        assert parent.host.open == 4
        child.kill()
        assert parent.host.open == 3
        assert parent.open() == 1
    parent.close(4)


def test_what_an_error_says(path: Path) -> None:
    with worker(path, 3) as one, worker(path, 3) as two:
        one.do("open", 2)
        two.do("open", 1)
        told = two.do("wait_for_one", 0.05)
        assert "HOST_LIMIT 3, 3 open in 2 processes." in told


# -- who gets what ---------------------------------------------------------------------------------


def served(waiting: OtherProcess[Worker], *others: OtherProcess[Worker]) -> None:
    """The one that waits is served while the others look after their pools."""
    deadline = time.monotonic() + 10
    while not waiting.is_done:
        assert time.monotonic() < deadline
        for other in others:
            other.do("upkeep")
        time.sleep(0.005)
    assert waiting.result() is None


def test_who_has_none_comes_first(path: Path) -> None:
    with worker(path, 4) as one, worker(path, 4) as two, worker(path, 4) as three:
        one.do("open", 3)
        two.do("open", 1)
        three.begin("wait_for_one", 10.0)
        time.sleep(0.05)
        two.do("close")
        assert one.do("open") == 0
        assert three.result() is None


def test_below_the_fair_share_comes_before_above(path: Path) -> None:
    with worker(path, 6) as one, worker(path, 6) as two:
        one.do("open", 5)
        two.do("open", 1)
        two.begin("wait_for_one", 10.0)
        time.sleep(0.05)
        one.do("close")
        assert one.do("open") == 0
        assert two.result() is None


def test_surplus_is_given_back_as_it_comes_back_down_to_the_fair_share(path: Path) -> None:
    """Though everything is in use all the time."""
    with worker(path, 6) as one, worker(path, 6) as two:
        one.do("open", 6)
        for count in range(3):
            assert one.do("size") == 6 - count
            two.begin("wait_for_one", 10.0)
            deadline = time.monotonic() + 10
            while not two.is_done:
                assert time.monotonic() < deadline
                one.do("give", 1)
                one.do("open", 1)
                one.do("upkeep")
                time.sleep(0.005)
            assert two.result() is None
        assert one.do("size") == two.do("size") == 3
        # It has its share, and no more while the other one uses its own.
        two.begin("wait_for_one", 0.3)
        while not two.is_done:
            one.do("give", 1)
            assert one.do("open", 1) == 1
            one.do("upkeep")
            time.sleep(0.005)
        assert "HOST_LIMIT 6, 6 open" in two.result()
        assert one.do("size") == 3


def test_idle_ones_go_to_whoever_waits(path: Path) -> None:
    """Also below the fair share, when nobody has used them for a while."""
    with worker(path, 6) as one, worker(path, 6) as two:
        one.do("open", 6)
        one.do("give", 6)
        for count in range(6):
            one.do("age", 5.0)
            two.begin("wait_for_one", 10.0)
            served(two, one)
            assert two.do("size") == count + 1
        assert one.do("size") == 0


def test_min_size_stays_within_the_fair_share(path: Path) -> None:
    with worker(path, 6, min_size=5, size=6) as one, worker(path, 6) as two:
        one.do("open", 6)
        one.do("give", 6)
        for _ in range(3):
            one.do("age", 5.0)
            two.begin("wait_for_one", 10.0)
            served(two, one)
        one.do("age", 5.0)
        two.begin("wait_for_one", 0.3)
        while not two.is_done:
            one.do("upkeep")
            time.sleep(0.005)
        assert "HOST_LIMIT 6, 6 open in 2 processes" in two.result()
        assert one.do("size") == two.do("size") == 3


def test_more_processes_than_connections(path: Path) -> None:
    """They take turns: whoever is done gives the only one away, and has it again when its time comes."""
    with worker(path, 1) as one, worker(path, 1) as two, worker(path, 1) as three:
        one.do("open", 1)
        waiting = [two, three]
        has = one
        for one_waits in waiting:
            one_waits.begin("wait_for_one", 10.0)
        time.sleep(0.1)
        for _ in range(6):
            has.do("upkeep")
            has.do("give")
            until(lambda waiting=waiting: any(other.is_done for other in waiting))
            [served] = [other for other in waiting if other.is_done]
            assert served.result() is None
            has.begin("wait_for_one", 10.0)
            waiting = [has, *(other for other in waiting if other is not served)]
            has = served
        has.do("give")
        has.kill()


def test_needs_are_gone_with_who_had_them(path: Path, seen: Seen) -> None:
    with worker(path, 2) as one, worker(path, 2) as two:
        one.do("open", 2)
        two.begin("wait_for_one", 10.0)
        until(lambda: seen.needs == 1)
        assert seen.processes == 2
        one.do("close")
        assert two.result() is None
        assert seen.needs == 0
        two.do("close")
        one.do("close")
        one.do("upkeep")
        two.do("upkeep")
        assert (seen.open, seen.needs, seen.processes) == (0, 0, 0)


# -- what goes wrong -------------------------------------------------------------------------------


def test_the_lower_limit_counts(path: Path, seen: Seen, caplog: pytest.LogCaptureFixture) -> None:
    mine = Worker(path, 6)
    assert mine.open(6) == 6
    with caplog.at_level(logging.WARNING), worker(path, 4) as they:
        mine.upkeep()
        mine.give(3)
        assert mine.size() == 4, "what comes back isn't kept"
        for _ in range(3):
            mine.upkeep()
        assert mine.limit() == they.do("limit") == 4
        assert they.do("open") == 0
        assert len([record for record in caplog.records if "lower HOST_LIMIT 4" in record.message]) == 1
        # It is now below the limit, whatever byte it had.
        mine.close(1)
        assert they.do("open", 4) == 1
        they.kill()
        mine.upkeep()
        assert mine.limit() == 6
        assert mine.open(5) == 4, "one of them was idle"
    mine.close(6)


def test_the_lower_limit_counts_from_the_first_moment(path: Path) -> None:
    with worker(path, 2) as one, worker(path, 6) as two:
        assert one.do("open", 2) == 2
        assert two.do("open", 6) == 0
        assert two.do("limit") == 2


def test_another_limit_while_it_runs(path: Path) -> None:
    with worker(path, 6) as one, worker(path, 6) as two:
        one.do("set_limit", 3)
        two.do("upkeep")
        assert one.do("open", 6) == 3
        assert two.do("open", 6) == 0
        one.do("set_limit", 6)
        two.do("upkeep")
        assert two.do("open", 6) == 3


def test_somebody_removes_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new one is taken up, with what is open."""
    mine = Worker(path, 6)
    assert mine.open(4) == 4
    mine.upkeep()
    path.unlink()
    mine.upkeep()
    with worker(path, 6) as they:
        assert they.do("open", 6) == 6, "not looked at yet"
        they.do("close", 4)
        monkeypatch.setattr(host, "FILE_CHECK", 0.0)
        mine.upkeep()
        assert they.do("open", 6) == 0
        assert mine.host.open == 6
        mine.close(4)
        assert they.do("open", 6) == 4
    assert mine.open(7) == 6
    mine.close(6)


def test_others_close_its_descriptor(path: Path) -> None:
    """As a daemon does with all. What is open is counted again, and who needs one gets one at once."""
    mine = Worker(path, 6)
    assert mine.open(2) == 2
    os.close(mine.locks._fd)
    assert mine.wait_for_one(5.0) is None
    mine.upkeep()
    with worker(path, 6) as they:
        assert they.do("open", 6) == 3
        os.close(mine.locks._fd)
        mine.close(1)
        mine.upkeep()
        assert they.do("open", 6) == 1
    mine.close(2)


def test_somebody_else_has_found_that_it_was_closed(path: Path) -> None:
    """As a check may: the pool's bytes are locked again all the same."""
    mine = Worker(path, 6)
    assert mine.open(2) == 2
    mine.upkeep()
    os.close(mine.locks._fd)
    assert not mine.locks.is_same_file()
    mine.upkeep()
    with worker(path, 6) as they:
        assert they.do("open", 6) == 4
    mine.close(2)


def test_a_pool_is_made_after_others_have_closed_it(path: Path) -> None:
    mine = Worker(path, 6)
    os.close(mine.locks._fd)
    mine.host = mine.pool.slots.host = host.HostShare(mine.pool.slots, mine.locks, 6)
    assert mine.open(6) == 6
    mine.close(6)


def test_a_slot_that_is_dropped(path: Path, seen: Seen, at_once: None) -> None:
    with worker(path, 2) as they:
        they.do("open", 2)
        they.do("drop")
        assert seen.open == 1
        assert they.do("open") == 1


def test_a_slot_whose_finalizer_was_interrupted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Worker(path, 2)
    mine.open(2)
    monkeypatch.setattr(mine.pool, "reclaim", lambda slot: None)
    mine.drop()
    gc.collect()
    assert mine.host.open == 2
    monkeypatch.setattr(slots, "FINALIZER_TIME", 0.0)
    mine.upkeep(2)
    assert mine.host.open == 1
    assert mine.open() == 1
    mine.close(2)


def test_threads_race_for_the_last_bytes(path: Path, seen: Seen) -> None:
    """In two processes: never more, and in the end none is lost."""
    mine = Worker(path, 3)
    over = threading.Event()
    most = []

    def use() -> None:
        while not over.is_set():
            try:
                slot = mine.pool.take_now()
            except CheckoutTimeout:
                continue
            most.append(len(mine.pool.driver.open))
            mine.pool.close(slot)

    with worker(path, 3) as they:
        callers = [Caller(use) for _ in range(6)]
        for _ in range(200):
            theirs = they.do("open", 3)
            assert mine.host.open <= 3
            they.do("close", theirs)
        over.set()
        for caller in callers:
            caller.result()
        assert max(most) <= 3
        assert mine.host.open == mine.size() == 0
        # What two threads have told at once, that they want one, is settled each second.
        mine.upkeep()
        assert they.do("open", 4) == 3


# -- interrupted at any point ------------------------------------------------------------------------


def opens(worker: Worker) -> None:
    slot = worker.pool.slots.new(None)
    assert slot is not None
    worker.held.append(worker.pool.fill(slot))


def closes(worker: Worker) -> None:
    worker.pool.close(worker.held.pop(0))


def drops(worker: Worker) -> None:
    worker.pool.discard(worker.held.pop(0))


def looks_after(worker: Worker) -> None:
    worker.host.look_after(0)


def tells(worker: Worker) -> None:
    worker.host.is_short = True
    worker.host.tell(2)
    worker.host.tell(0)


def ends(worker: Worker) -> None:
    worker.host.end()
    worker.host.locks.take(host.LIMITS + 4, shared=True)


@pytest.mark.parametrize("act", [opens, closes, drops, looks_after, tells, ends])
def test_interrupted(act: Callable[[Worker], None], path: Path, at_once: None) -> None:
    """The file says then what the pool has, and nothing else is locked."""
    mine = Worker(path, 4)
    point = 0
    with OtherProcess(lambda: Seen(path)) as they:
        more = True
        while more:
            mine.open(2 - len(mine.held))
            mine.host._needs.told = 0, 0, 0
            more = interrupted_at(point, PACKAGE, lambda: act(mine))
            point += 1
            gc.collect()
            # The second look finds what the first one began to wait for.
            mine.upkeep(3)
            assert they.do("counts") == (mine.size(), int(mine.size() > 0), 0), f"point {point}"
            assert mine.size() == len(mine.held) + mine.idle()
    assert point > 10
    mine.close(4)


# -- what it costs ---------------------------------------------------------------------------------


def test_a_checkout_of_an_idle_connection_costs_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does its checkin: not one call more, neither in Python nor in C."""
    # On a busy machine ours is not given away.
    monkeypatch.setattr(host, "SPARE_AFTER", 100.0)

    def calls(pool: FakePool) -> tuple[int, int, int]:
        pool.checkin(pool.fill(pool.checkout()))
        for _ in range(3):
            pool.checkin(pool.checkout())
        with counting() as count:
            slot = pool.checkout()
            if pool.wants(slot):
                pool.checkin(slot)
        pool.close(pool.checkout())
        return count.python, count.package, count.c

    without = calls(FakePool(max_outstanding=5, size=2))
    mine = Worker(path, 5, max_outstanding=5)
    assert calls(mine.pool) == without
    # Also while others wait, as long as there are no more of ours than there may be.
    with worker(path, 5) as they:
        they.do("open", 4)
        they.begin("wait_for_one", 20.0)
        mine.open()
        mine.give()
        mine.upkeep()
        assert calls(mine.pool) == without


def test_a_byte_that_is_locked_again_while_it_is_released_is_not_lost(path: Path) -> None:
    mine = Bytes(RecordLocks(finder(path)), 4)
    assert mine.take(7)
    with OtherProcess(lambda: Seen(path)) as they:
        assert they.do("counts") == (1, 0, 0)
        # The first half of release(), and settle() before the second.
        byte = mine._bytes.pop(7)
        mine._locks.release(byte)
        assert mine._take_again(7, byte)
        mine._owners.pop(byte)
        assert not mine.is_settled
        mine.settle({})
        assert mine.is_settled
        assert they.do("counts") == (0, 0, 0)


def test_a_slot_that_is_gone_while_upkeep_takes_its_byte_has_none(path: Path, at_once: None) -> None:
    mine = Bytes(RecordLocks(finder(path)), 4)
    assert mine.take(7)
    # Another thread has released it before the last step of this.
    mine._locks.release(0)
    mine._owners.pop(0)
    for _ in range(2):
        mine.settle({})
    assert (len(mine), mine.is_settled) == (0, True)


def test_a_forked_child_tells_nothing_for_who_waited_in_its_parent(path: Path) -> None:
    """Under gevent a greenlet that waits lives on there."""
    mine = Worker(path, 4)
    mine.host.is_short = True

    def tells() -> int:
        mine.host.tell(2)
        return in_child(lambda: Seen(path).needs)

    assert in_child(tells) == 0
    assert tells() == 2
