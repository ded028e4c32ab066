"""HOST_LIMIT: the file whose bytes the processes of a site lock, one for each alias and server."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from functools import partial

from django.conf import settings
from django.db import OperationalError

from django_db_pooling import conf, status_dir
from django_db_pooling.conf import Problem, Settings
from django_db_pooling.log import redact
from django_db_pooling.pool.host import HostShare
from django_db_pooling.pool.host_needs import END
from django_db_pooling.pool.slots import Slots
from django_db_pooling.process.record_locks import RecordLocks

# By the file's id. A forked child goes on with the parent's descriptor, without the parent's locks. None is
# ever closed: all locks on the same file would be gone.
_locks: dict[str, RecordLocks] = {}


def follow(alias: str, settings_dict: Settings, slots: Slots) -> None:
    """Have a pool share what its limits say. Raises OperationalError where the file can't be locked."""
    limit = slots.limits.host_limit
    if limit is None:
        leave(slots)
        return
    try:
        locks = locks_for(alias, settings_dict)
        if slots.host is not None and slots.host.locks is not locks:
            # Those of another server.
            leave(slots)
        if slots.host is None:
            slots.host = HostShare(slots, locks, limit)
        slots.host.set_limit(limit)
    except OSError as error:
        raise OperationalError(f"HOST_LIMIT of {alias!r}: {redact(error)}") from error


def leave(slots: Slots) -> None:
    """From now on the connections of this pool don't count for others."""
    host, slots.host = slots.host, None
    if host is not None:
        host.end()


def locks_for(alias: str, settings_dict: Settings) -> RecordLocks:
    """Those of this process (I/O at first). Raises OSError."""
    one = _file_id(alias, settings_dict)
    found = _locks.get(one)
    if found is None:
        found = _locks.setdefault(one, RecordLocks(partial(_find, one)))
    return found


def _file_id(alias: str, settings_dict: Settings) -> str:
    server = [str(settings_dict.get(key) or "") for key in ("ENGINE", "HOST", "PORT")]
    if not any(server[1:]):
        # A file, or a socket at its usual place.
        server.append(str(settings_dict.get("NAME") or ""))
    return hashlib.sha256("\0".join([alias, *server]).encode()).hexdigest()[:32]


def _find(one: str, descriptor: int | None) -> int:
    """The present descriptor where it is that of the file; else a new one. Others may have removed the file,
    or closed the descriptor with all others of the process.
    """
    if getattr(settings, "DB_POOL_STATUS_DIR", "") is None:
        raise status_dir.Refused("DB_POOL_STATUS_DIR is None: make it the absolute path of a directory")
    with status_dir.opened(make=True) as directory:
        if descriptor is not None and directory.is_lock_file(one, descriptor):
            # What cleans up old files goes by this.
            os.utime(descriptor)
            return descriptor
        return directory.open_lock_file(one)


def problems(aliases: Iterable[tuple[str, Settings]]) -> list[Problem]:
    """Of those that have a HOST_LIMIT and can't have one here (I/O)."""
    found = []
    for alias, settings_dict in aliases:
        if conf.limits_for(alias, settings_dict).host_limit is None:
            continue
        try:
            locks = locks_for(alias, settings_dict)
            # Others may have closed it. And a byte of nobody's.
            locks.is_same_file()
            locks.take(END)
            locks.release(END)
        except OSError as error:
            found.append(
                Problem(
                    "django_db_pooling.E009",
                    f'DATABASES[{alias!r}]["POOL"]["HOST_LIMIT"] takes a file that can be locked, in '
                    f"{redact(status_dir.path())}: {redact(error)}.",
                    "Set DB_POOL_STATUS_DIR to a directory on a local disk that all processes of this site "
                    "can write to, or remove HOST_LIMIT.",
                )
            )
    return found
