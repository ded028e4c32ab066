"""Record locks on the bytes of a file: what processes of a host tell each other, without a word.

A lock goes with its process, whatever ends it, so nothing has to be cleared away. A fork doesn't inherit it.
All locks that a process has on a file are gone as soon as it closes any descriptor of that file: so there is
one descriptor, which is never closed while the file is in use
(https://man7.org/linux/man-pages/man2/fcntl_locking.2.html). No call waits.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Callable, Iterator

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# struct flock: Linux begins with the kind of the lock, macOS and the BSDs with its range.
_IS_LINUX = sys.platform.startswith("linux")
_FLOCK = struct.Struct("hhqqi4x" if _IS_LINUX else "qqihhi")


class RecordLocks:
    """Of this process, on one file. Threads must not lock the same byte: to the kernel they are one.

    ``find``: called with the present descriptor, or None; gives that one where it is still the file's, else a
    new one. Raises OSError, as all methods do.
    """

    def __init__(self, find: Callable[[int | None], int]) -> None:
        if fcntl is None:
            raise OSError("this system has no record locks")
        self._find = find
        # How often a file was opened: none of the locks from before is left then.
        self.opened = 0
        self._open(None)

    def is_same_file(self) -> bool:
        """Whether this is the file that others find at its place. Else it is from now on, without locks."""
        before = self._fd if self._is_open() else None
        self._open(before)
        return before == self._fd

    def _open(self, before: int | None) -> None:
        self._fd = self._find(before)
        self._file = os.fstat(self._fd)
        self.opened += self._fd != before

    def _is_open(self) -> bool:
        """Others may have closed all descriptors of the process, and this one may be another file's now."""
        try:
            return os.path.samestat(self._file, os.fstat(self._fd))
        except OSError:
            return False

    def _descriptor(self) -> int:
        """Never another file's: its locks are not ours."""
        if not self._is_open():
            raise OSError("its descriptor was closed by other code")
        return self._fd

    def take(self, start: int, length: int = 1, shared: bool = False) -> bool:
        """Lock these bytes; False: another process has one of them."""
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        descriptor = self._descriptor()
        try:
            fcntl.lockf(descriptor, kind | fcntl.LOCK_NB, length, start)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def release(self, start: int, length: int = 1) -> None:
        """Whether they are locked or not."""
        fcntl.lockf(self._descriptor(), fcntl.LOCK_UN, length, start)

    def find_other(self, start: int, end: int) -> tuple[int, int] | None:
        """Where, from ``start`` up to ``end``, another process has locked something: any such range."""
        if start >= end:
            return None
        kind, start_found, length = self._ask(start, end - start)
        if kind == fcntl.F_UNLCK:
            return None
        last = start_found + length if length else end
        return max(start, start_found), min(end, last)

    def others(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """All such ranges, in no order: one of a process may come in pieces, two don't come as one."""
        left = [(start, end)]
        while left:
            start, end = left.pop()
            found = self.find_other(start, end)
            if found is not None:
                yield found
                left += [(start, found[0]), (found[1], end)]

    def count_others(self, start: int, end: int) -> int:
        """How many bytes other processes have locked there."""
        return sum(last - first for first, last in self.others(start, end))

    def _ask(self, start: int, length: int) -> tuple[int, int, int]:
        descriptor = self._descriptor()
        if _IS_LINUX:
            asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
            kind, _, start, length, _ = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
        else:
            asked = _FLOCK.pack(start, length, 0, fcntl.F_WRLCK, os.SEEK_SET, 0)
            start, length, _, kind, _, _ = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
        return kind, start, length
