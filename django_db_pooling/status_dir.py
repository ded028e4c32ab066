"""The directory that the processes of a site share: small files, replaced as a whole.

This file alone decides whether a directory can be trusted, and it alone opens, lists, writes and removes
files there. Trusted is a directory of this user's that no other user may enter. It is checked by descriptor,
at each use, and everything in it is reached from that descriptor, so that nothing leads anywhere else,
whatever others do to the names above. Only files of our own names are read or removed.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import secrets
import stat
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS
from django.utils.crypto import salted_hmac

from django_db_pooling import conf
from django_db_pooling.log import extra, logger, redact

T = TypeVar("T")

# Bytes of a file; more than that isn't read.
MAX_BYTES = 8 * 1024 * 1024
# So many ignored files are remembered, so that each is logged once.
MAX_IGNORED = 1000
_ENTER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_SHARE = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# It may be one that we can't list.
_PARENT = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_NAME = re.compile(
    r"django_db_pooling-(?P<kind>report|command)-(?P<id>[0-9]{1,20}-[0-9a-f]{32})\.json"
    r"(?P<unfinished>\.[0-9a-f]{32}\.new)?"
)

_ignored: set[str] = set()


class Kind(StrEnum):
    """What a file is about."""

    REPORT = "report"
    COMMAND = "command"


class Refused(OSError):
    """The directory, or a file in it, can't be trusted or used; its text has why and what to do."""


def is_on() -> bool:
    """Whether processes report: the app is installed, or settings.DB_POOL_STATUS_DIR is a path."""
    if not conf.there_are_settings():
        return False
    if hasattr(settings, "DB_POOL_STATUS_DIR"):
        return settings.DB_POOL_STATUS_DIR is not None
    return apps.ready and apps.is_installed("django_db_pooling")


def parent() -> Path:
    """Where our directory lies: settings.DB_POOL_STATUS_DIR, or the system's for temporary files."""
    given = getattr(settings, "DB_POOL_STATUS_DIR", None)
    if given is not None:
        return Path(given)
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError:
        # Nothing of the kind can be written.
        return Path("/tmp")


def path() -> Path:
    """The directory of this site's processes, as far as they run as this user."""
    return parent().joinpath(*_names())


def new_id(number: int) -> str:
    """A unique one, on whatever host; ``number`` is for people, and to sort by."""
    return f"{number}-{secrets.token_hex(16)}"


def refusal() -> str | None:
    """Why the directory can't be used; None where it can, or isn't there yet."""
    try:
        with opened():
            return None
    except FileNotFoundError:
        return None
    except OSError as error:
        return redact(str(error))


@contextlib.contextmanager
def opened(make: bool = False) -> Iterator[Directory]:
    """The directory, made where it is missing (I/O).

    Raises FileNotFoundError where it is missing and not to be made, Refused where it can't be trusted, and
    other OSErrors where the system says so.
    """
    given = getattr(settings, "DB_POOL_STATUS_DIR", "/")
    # One that is relative would be another one for each working directory.
    if not isinstance(given, str | os.PathLike) or not os.path.isabs(given) or "\0" in os.fspath(given):
        value = redact(repr(given))
        raise Refused(f"DB_POOL_STATUS_DIR is {value}: make it the absolute path of a directory")
    with contextlib.ExitStack() as held:
        yield _open(held, make)


def _open(held: contextlib.ExitStack, make: bool) -> Directory:
    where = parent()
    descriptor = _open_parent(where, make)
    held.callback(os.close, descriptor)
    for name in _names():
        where /= name
        descriptor = _open_own(descriptor, where, make)
        held.callback(os.close, descriptor)
    return Directory(descriptor, where)


def _names() -> tuple[str, str]:
    """Of our directory, which others can see, and of the site's in it, which they can't."""
    try:
        key = settings.SECRET_KEY
    except ImproperlyConfigured:
        key = ""
    database = "\0".join(_default_database(key))
    site = salted_hmac("django_db_pooling.status_dir", database, secret=key, algorithm="sha256").hexdigest()
    return f"django_db_pooling-{os.geteuid()}", site[:32]


@functools.cache
def _default_database(key: str | bytes) -> tuple[str, ...]:
    """Two copies of a site may have one SECRET_KEY, but not one database. It is that of the first look, since
    a test run changes the name, and each of its parallel processes to another one.
    """
    default = getattr(settings, "DATABASES", {}).get(DEFAULT_DB_ALIAS, {})
    return tuple(str(default.get(name) or "") for name in ("HOST", "PORT", "NAME"))


def _open_parent(where: Path, make: bool) -> int:
    try:
        found = os.lstat(where)
    except FileNotFoundError:
        # The system's directory for temporary files isn't ours to make.
        if not make or not hasattr(settings, "DB_POOL_STATUS_DIR"):
            raise
        _make(where, None)
        found = os.lstat(where)
    if stat.S_ISLNK(found.st_mode) and found.st_uid not in (0, os.geteuid()):
        raise _refused(where, f"is a symbolic link of user id {found.st_uid}")
    return os.open(where, _PARENT)


def _open_own(above: int, where: Path, make: bool) -> int:
    try:
        descriptor = _enter(above, where)
    except FileNotFoundError:
        if not make:
            raise
        _make(where, above)
        descriptor = _enter(above, where)
    try:
        _check(os.fstat(descriptor), where)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _make(where: Path, above: int | None) -> None:
    try:
        os.mkdir(where if above is None else where.name, 0o700, dir_fd=above)
    except FileExistsError:
        # By another process, this instant.
        pass
    except OSError as error:
        raise Refused(
            f"{where} can't be created, {error.strerror}: let user id {os.geteuid()} write into "
            f"{where.parent}, or set DB_POOL_STATUS_DIR to another directory"
        ) from error


def _enter(above: int, where: Path) -> int:
    try:
        return os.open(where.name, _ENTER, dir_fd=above)
    except FileNotFoundError:
        raise
    except OSError:
        # A link, a file, or somebody else's; otherwise the system's own words are best.
        _check(os.stat(where.name, dir_fd=above, follow_symlinks=False), where)
        raise


def _check(found: os.stat_result, where: Path) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise _refused(where, "is a symbolic link")
    if not stat.S_ISDIR(found.st_mode):
        raise _refused(where, "is not a directory")
    if found.st_uid != os.geteuid():
        raise _refused(where, f"belongs to user id {found.st_uid}, not to {os.geteuid()}")
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        raise Refused(f"{where} is open to other users (mode {mode:04o}): give it mode 0700, or remove it")


def _refused(where: Path, why: str) -> Refused:
    return Refused(f"{where} {why}: remove it, or set DB_POOL_STATUS_DIR to another directory")


class Directory:
    """One that is trusted, for as long as it is open. All methods do I/O."""

    def __init__(self, descriptor: int, where: Path) -> None:
        self._descriptor = descriptor
        self._where = where

    def ids(self, kind: Kind) -> list[str]:
        """Of the files of a kind."""
        return [match["id"] for match in self._ours(kind) if match["unfinished"] is None]

    def read(self, kind: Kind, ids: Collection[str], decode: Callable[[str, bytes], T]) -> list[T]:
        """What ``decode`` makes of the ids and texts of these files.

        What is no file of ours is ignored, and where ``decode`` raises ValueError; that is logged.
        """
        found = []
        for one in ids:
            name = _file_name(kind, one)
            try:
                found.append(decode(one, self._read(name)))
            except FileNotFoundError:
                # Gone this instant.
                continue
            except (OSError, ValueError) as error:
                self._ignore(name, error)
        return found

    def write(self, kind: Kind, one: str, text: bytes) -> None:
        """Make a file, or replace it, in one step. Raises Refused where that can't be done."""
        name = _file_name(kind, one)
        unfinished = f"{name}.{secrets.token_hex(16)}.new"
        try:
            descriptor = os.open(unfinished, _CREATE, 0o600, dir_fd=self._descriptor)
            with open(descriptor, "wb") as file:
                file.write(text)
            os.replace(unfinished, name, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)
        except BaseException as error:
            self._remove(unfinished)
            if isinstance(error, OSError):
                raise Refused(f"{self._where} can't be written: {error.strerror}") from error
            raise

    def remove(self, kind: Kind, one: str) -> None:
        self._remove(_file_name(kind, one))

    def clear(self, kind: Kind, seconds: float) -> None:
        """Remove files of a kind that weren't written for so many seconds, unfinished ones, too."""
        for match in self._ours(kind):
            with contextlib.suppress(OSError):
                found = os.stat(match[0], dir_fd=self._descriptor, follow_symlinks=False)
                # As far in the future as in the past: clocks are set.
                is_old = abs(time.time() - found.st_mtime) > seconds
                if is_old and stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
                    self._remove(match[0])

    def open_lock_file(self, one: str) -> int:
        """A descriptor of an empty file whose bytes processes lock; made where it is missing. To be closed by
        nobody who has locks on it. Raises Refused where it can't be trusted.
        """
        descriptor = os.open(_lock_file_name(one), _SHARE, 0o600, dir_fd=self._descriptor)
        try:
            _check_file(os.fstat(descriptor))
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def is_lock_file(self, one: str, descriptor: int) -> bool:
        """Whether this is a descriptor of that file."""
        try:
            found = os.stat(_lock_file_name(one), dir_fd=self._descriptor, follow_symlinks=False)
            return os.path.samestat(found, os.fstat(descriptor))
        except OSError:
            return False

    def _ours(self, kind: Kind) -> Iterator[re.Match[str]]:
        for name in os.listdir(self._descriptor):
            match = _NAME.fullmatch(name)
            if match is not None and match["kind"] == kind:
                yield match

    def _read(self, name: str) -> bytes:
        descriptor = os.open(name, _READ, dir_fd=self._descriptor)
        try:
            _check_file(os.fstat(descriptor))
            with open(descriptor, "rb", closefd=False) as file:
                text = file.read(MAX_BYTES + 1)
        finally:
            os.close(descriptor)
        if len(text) > MAX_BYTES:
            raise Refused(f"it has more than {MAX_BYTES} bytes")
        return text

    def _remove(self, name: str) -> None:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=self._descriptor)

    def _ignore(self, name: str, error: Exception) -> None:
        if name in _ignored:
            return
        if len(_ignored) >= MAX_IGNORED:
            _ignored.clear()
        _ignored.add(name)
        why = redact(str(error))
        fields = extra("status", error=why)
        logger.warning("ignoring %s: %s", redact(self._where / name), why, extra=fields)


def _check_file(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise Refused("it is not a regular file")
    if found.st_uid != os.geteuid():
        raise Refused(f"it belongs to user id {found.st_uid}")
    if found.st_nlink > 1:
        raise Refused("it has more than one hard link")


def _lock_file_name(one: str) -> str:
    return f"django_db_pooling-limit-{one}.lock"


def _file_name(kind: Kind, one: str) -> str:
    return f"django_db_pooling-{kind}-{one}.json"
