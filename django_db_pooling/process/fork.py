"""Forks: noticing one, also one that Python's hooks don't see, and giving up what is the parent's.

``os.fork()`` calls hooks; a server written in C may fork without them, as uWSGI does for its workers. So
every function that is about to use something of this process's asks first::

    if not fork.noticed[0]:
        fork.notice()

A child must neither use nor destroy its parent's connections. A destructor could send COM_QUIT on a
socket that is the parent's (mysqlclient's does), or roll the parent's transaction back in its file
(sqlite3's does). So these objects are never freed: not even the end of the child's interpreter, which clears
its modules, destroys them.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

from django_db_pooling.process import green

try:
    from ctypes import py_object, pythonapi
except ImportError:  # a Python without ctypes
    pythonapi = None  # type: ignore[assignment]

# Linux's, since 4.14: https://man7.org/linux/man-pages/man2/madvise.2.html. Python has no name for it.
_MADV_WIPEONFORK = 18


class _Pid:
    """Is true at 0 in the process that set it last. Costs a system call."""

    def __init__(self) -> None:
        self._pid = -1

    def __getitem__(self, index: int) -> int:
        return os.getpid() == self._pid

    def __setitem__(self, index: int, value: int) -> None:
        self._pid = os.getpid()


def _wiped_in_children() -> mmap.mmap | _Pid:
    """A page of memory that the kernel fills with zeros in a forked child, or else what does the same."""
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        page.madvise(_MADV_WIPEONFORK)
    except (AttributeError, OSError, ValueError):
        return _Pid()
    try:
        page.madvise(-1)
    except OSError:
        return page
    # It accepts anything: an emulator, which may not do it.
    return _Pid()


# True at 0 unless this is a forked child that notice() doesn't know of yet. Reading it is no system call.
noticed: Any = _wiped_in_children()
noticed[0] = 1
# What stands for this process: another object in each child.
process = object()

_functions: list[Callable[[], None]] = []
_immortal: list[Any] = []
# By process: a lock that was taken in the parent would never be released.
_locks: dict[int, Any] = {}
# The process in which notice() is running.
_noticing_in: int | None = None


def in_child(function: Callable[[], None]) -> None:
    """Call this in each forked child before anything of the parent's is used there; again, where it was
    interrupted. No I/O but on files, no switch of greenlets.
    """
    _functions.append(function)


def notice() -> None:
    """In a forked child: give up what is the parent's. That is done when it returns, by whichever thread."""
    lock = _locks.setdefault(os.getpid(), green.original("_thread", "RLock")())
    with lock:
        _notice()


def _notice() -> None:
    global process, _noticing_in
    if noticed[0] or _noticing_in == os.getpid():
        # Another thread was faster, or one of the functions uses what it is about to give up.
        return
    _noticing_in = os.getpid()
    try:
        process = object()
        _call_all()
        noticed[0] = 1
    finally:
        _noticing_in = None


def _call_all() -> None:
    for function in _functions:
        function()


os.register_at_fork(after_in_child=notice)


def is_own(token: object) -> bool:
    """Whether ``token``, a ``process`` that was kept, stands for this process. For finalizers, which run
    anywhere, also in a child that hasn't noticed yet.
    """
    return bool(noticed[0]) and token is process


def forks_silently() -> bool:
    """Whether this process may fork at any moment, past Python's hooks: uWSGI's master does.

    A thread that is running just then leaves the child locks that are never released, the interpreter's
    own first. So such a process must have no threads.
    """
    masterpid = getattr(sys.modules.get("uwsgi"), "masterpid", None)
    return callable(masterpid) and masterpid() == os.getpid()


def cut_off(descriptors: Iterable[int | None]) -> None:
    """Put /dev/null where these sockets are: writing to one by mistake does no harm."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in descriptors:
        if descriptor is not None:
            os.dup2(null, descriptor)
    os.close(null)


def never_free(thing: Any) -> None:
    """Never let the destructor of this object run, not even at the end of the interpreter."""
    _immortal.append(thing)
    if pythonapi is not None:
        # One reference more than will ever be given up.
        pythonapi.Py_IncRef(py_object(thing))
