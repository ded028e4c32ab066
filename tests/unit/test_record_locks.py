"""Locks on bytes of a real file, in real processes."""

from __future__ import annotations

import fcntl
import os
import random
from pathlib import Path

import pytest

from django_db_pooling.process.record_locks import RecordLocks
from tests.unit.host_worker import finder
from tests.unit.other_process import OtherProcess

END = 1 << 42


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "locks"


@pytest.fixture
def locks(path: Path) -> RecordLocks:
    return RecordLocks(finder(path))


def other(path: Path) -> OtherProcess[RecordLocks]:
    return OtherProcess(lambda: RecordLocks(finder(path)))


def test_a_byte_is_one_process_s(path: Path, locks: RecordLocks) -> None:
    with other(path) as they:
        assert locks.take(5)
        assert not they.do("take", 5)
        assert they.do("take", 6)
        assert not locks.take(6)
        # To the kernel all threads are one: again is nothing.
        assert locks.take(5)
        locks.release(5)
        assert they.do("take", 5)


def test_kill_frees_all(path: Path, locks: RecordLocks) -> None:
    with other(path) as they:
        assert they.do("take", 0, 1000)
        assert locks.count_others(0, END) == 1000
        they.kill()
        assert locks.count_others(0, END) == 0
        assert locks.take(0, 1000)


def test_a_fork_has_none_of_them(path: Path, locks: RecordLocks) -> None:
    """Though it has the same descriptor; and what it releases stays locked here."""
    assert locks.take(3)
    with OtherProcess(lambda: locks) as child:
        assert not child.do("take", 3)
        child.do("release", 0, END)
        assert child.do("count_others", 0, END) == 1
        assert not child.do("take", 3)
    with other(path) as they:
        assert not they.do("take", 3)


def test_shared(path: Path, locks: RecordLocks) -> None:
    with other(path) as one, other(path) as two:
        assert one.do("take", 7, 1, True)
        assert two.do("take", 7, 1, True)
        assert locks.find_other(0, 100) == (7, 8)
        assert locks.count_others(0, 100) == 1
        assert not locks.take(7)
        assert locks.take(7, shared=True)
        one.kill()
        assert locks.find_other(0, 100) == (7, 8)
        two.kill()
        assert locks.find_other(0, 100) is None
        assert locks.take(7)


def test_counting(path: Path, locks: RecordLocks) -> None:
    """Of three processes, by chance; own locks and what is outside aren't counted."""
    chance = random.Random(1)
    with other(path) as one, other(path) as two:
        locked: dict[int, object] = {}
        takers = {locks: locks.take, one: lambda *a: one.do("take", *a), two: lambda *a: two.do("take", *a)}
        for _ in range(300):
            who = chance.choice(list(takers))
            start, length = chance.randrange(40), chance.randrange(1, 6)
            taken = takers[who](start, length)
            theirs = [byte for byte in range(start, start + length) if locked.get(byte, who) is not who]
            assert taken is not bool(theirs)
            if taken:
                locked |= dict.fromkeys(range(start, start + length), who)
            if chance.random() < 0.5:
                byte = chance.randrange(45)
                if locked.get(byte, locks) is locks:
                    locks.release(byte)
                    locked.pop(byte, None)
            first, last = sorted((chance.randrange(50), chance.randrange(50)))
            others = {byte for byte, who in locked.items() if who is not locks and first <= byte < last}
            assert locks.count_others(first, last) == len(others)
            assert sum(b - a for a, b in locks.others(first, last)) == len(others)
            found = locks.find_other(first, last)
            assert others.issuperset(range(*found)) if found else not others


def test_others_close_all_descriptors(path: Path, locks: RecordLocks) -> None:
    """As daemons do. The kernel drops the locks, and a database's file may get the number."""
    assert locks.take(1)
    descriptor = locks._fd
    os.close(descriptor)
    for use in (locks.take, locks.release, lambda at: locks.find_other(0, 10)):
        with pytest.raises(OSError, match="closed by other code"):
            use(1)
    another = path.parent / "another file"
    number = os.open(another, os.O_RDWR | os.O_CREAT)
    if number != descriptor:
        os.dup2(number, descriptor)
        os.close(number)
    fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 1)
    for use in (locks.take, locks.release, lambda at: locks.find_other(0, 10)):
        with pytest.raises(OSError, match="closed by other code"):
            use(1)
    with OtherProcess(lambda: RecordLocks(finder(another))) as they:
        assert not they.do("take", 1), "the lock on another file is gone"
    assert not locks.is_same_file()
    assert locks.take(1)
    with other(path) as they:
        assert not they.do("take", 1)
    assert locks.is_same_file()
    os.close(descriptor)


def test_the_file_is_replaced(path: Path, locks: RecordLocks) -> None:
    assert locks.is_same_file()
    assert locks.take(1)
    path.unlink()
    with other(path) as they:
        assert they.do("take", 1)
        assert locks.find_other(0, 10) is None
        assert not locks.is_same_file()
        assert locks.find_other(0, 10) == (1, 2)
        assert not locks.take(1)
        assert locks.is_same_file()


def test_errors_are_raised(path: Path) -> None:
    """What can't be locked isn't taken for what another process has."""
    with pytest.raises(OSError):
        RecordLocks(finder(path.parent / "no such directory" / "file"))
    with path.open("w"):
        pass
    read_only = RecordLocks(lambda before: before or os.open(path, os.O_RDONLY))
    with pytest.raises(OSError):
        read_only.take(1)
