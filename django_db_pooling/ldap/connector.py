"""python-ldap's connection, cooperative under gevent, with an eye on what its users do to it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import ldap
from ldap.ldapobject import SimpleLDAPObject

from django_db_pooling.process import fork, green

# Functions of libldap that send a request and return its number, and those that leave the session changed.
_SENDS = frozenset(
    {
        "add_ext",
        "cancel",
        "compare_ext",
        "delete_ext",
        "extop",
        "modify_ext",
        "passwd",
        "rename",
        "search_ext",
        "simple_bind",
    }
)
_CHANGES = frozenset({"simple_bind", "sasl_bind_s", "sasl_interactive_bind_s", "start_tls_s"})
# Messages that come before the last one of an answer.
_PARTS = (ldap.RES_SEARCH_ENTRY, ldap.RES_SEARCH_REFERENCE, ldap.RES_INTERMEDIATE)
# The connection can't be used any more.
DEAD = (ldap.SERVER_DOWN, ldap.CONNECT_ERROR, ldap.UNAVAILABLE)
# What TLS holds back can't be seen on the socket: seconds between looks, as a net.
RECHECK_INTERVAL = 0.25


class Connector(SimpleLDAPObject):  # type: ignore[misc]
    """One connection to one server. Nothing connects it again, and nothing is sent twice.

    Under gevent waiting for an answer lets other greenlets run. Connecting does not, nor do python-ldap's
    calls without a message number (SASL binds, ``start_tls_s``, ``whoami_s``): call ``open`` off the hub.
    """

    def __init__(self, uri: str, **arguments: Any) -> None:
        use_native_locks()
        # Requests whose answer isn't complete.
        self.pending: set[int] = set()
        # Parts of answers that somebody has waited for in vain.
        self._parts: dict[int, deque[Any]] = {}
        self.is_dead = False
        # Somebody has bound it as somebody else, or set what can't be undone.
        self.is_changed = False
        # Options that were changed since it was opened, and what they were before.
        self._before: dict[int, Any] = {}
        self._usual_timeout: float = -1
        self.descriptor: int | None = None
        # OPT_TIMEOUT, once somebody has asked for it.
        self._answers: float | None = None
        # For an answer where nothing else is said, in seconds.
        self.patience: float | None = None
        super().__init__(uri, **arguments)

    def open(
        self,
        bind: str | None,
        password: str | None,
        *,
        start_tls: bool = False,
        options: Mapping[int, Any] | None = None,
        seconds: float | None = None,
    ) -> None:
        """Connect and bind (I/O that blocks). ``bind`` None: as nobody, without asking for it.

        ``seconds``: for each answer, and for TCP to connect; a TLS handshake has no limit. Raises
        ldap.LDAPError.
        """
        options = dict(options or {})
        # Otherwise any signal, of a child that has ended for example, looks like the end of the connection.
        self.set_option(ldap.OPT_RESTART, True)
        if seconds is not None:
            usual = options.get(ldap.OPT_NETWORK_TIMEOUT)
            self.set_option(ldap.OPT_NETWORK_TIMEOUT, seconds if usual in (None, -1) else min(usual, seconds))
            self.set_option(ldap.OPT_TIMEOUT, seconds)
        for option, value in options.items():
            if seconds is None or option not in (ldap.OPT_NETWORK_TIMEOUT, ldap.OPT_TIMEOUT):
                self.set_option(option, value)
        if ldap.OPT_X_TLS_NEWCTX not in options and any(map(_is_of_tls, options)):
            # Without it, and unless it is the last one, options of TLS have no effect on a connection.
            self.set_option(ldap.OPT_X_TLS_NEWCTX, 0)
        most = -1 if seconds is None else seconds
        if start_tls:
            self.start_tls_s()
        if bind is None:
            # Anything that connects.
            try:
                self._finish(self.search_ext("", ldap.SCOPE_BASE, attrlist=["1.1"]), most)
            except DEAD + (ldap.BUSY, ldap.TIMEOUT):
                raise
            except ldap.LDAPError:
                # Not everybody may read that; it is an answer.
                pass
        else:
            self._finish(self.simple_bind(bind, password), most)
        if seconds is not None:
            self.set_option(ldap.OPT_TIMEOUT, options.get(ldap.OPT_TIMEOUT, -1))
        self._usual_timeout = self.timeout
        self.descriptor = self.fileno()
        self.is_changed = False

    @property
    def is_as_opened(self) -> bool:
        """Whether its options and its timeout are those with which it was opened."""
        return not self._before and self.timeout == self._usual_timeout

    def restore(self) -> None:
        """Make its options and its timeout those again; it is changed where that can't be done."""
        self.timeout = self._usual_timeout
        while self._before:
            try:
                super().set_option(*self._before.popitem())
            except (TypeError, ValueError, ldap.LDAPError):
                # There are options that can't be set to what they are at first.
                self.is_changed = True
        self._answers = None

    def set_option(self, option: int, invalue: Any) -> Any:
        self._answers = None
        if self.descriptor is not None and option not in self._before:
            try:
                self._before[option] = self.get_option(option)
            except (ValueError, ldap.LDAPError):
                # It can only be set.
                self.is_changed = True
        return super().set_option(option, invalue)

    def _finish(self, message: int, seconds: float) -> None:
        """Wait for an answer without a look at gevent: open() runs in native threads."""
        try:
            super().result4(message, 1, seconds)
        finally:
            self.pending.discard(message)

    def confirm(self, bind: str, password: str | None, seconds: float) -> None:
        """Bind again as whom it is bound (I/O), to hear whether that still holds. Raises ldap.LDAPError."""
        self.result4(self.simple_bind(bind, password), 1, seconds)
        self.is_changed = False

    def become(self, fresh: Connector) -> None:
        """Go on as another connection, whose object is of no use any more. What was set stays so."""
        timeout, changed = self.timeout, {option: self.get_option(option) for option in self._before}
        self.__dict__.update(vars(fresh))
        self.timeout = timeout
        for option, value in changed.items():
            self.set_option(option, value)

    def is_usable(self, seconds: float | None) -> bool:
        """Whether the server answers (I/O)."""
        try:
            number = self.search_ext("", ldap.SCOPE_BASE, attrlist=["1.1"])
            self.result4(number, 1, -1 if seconds is None else seconds)
        except DEAD + (ldap.TIMEOUT,):
            return False
        except ldap.LDAPError:
            # Not everybody may read that; it is an answer.
            return True
        return True

    def result4(
        self,
        msgid: int = ldap.RES_ANY,
        all: int = 1,
        timeout: float | None = None,
        *arguments: Any,
        **keywords: Any,
    ) -> Any:
        if timeout is None:
            timeout = self.timeout
        if timeout < 0:
            timeout = self._most_seconds()
        try:
            if green.patched("select"):
                answer = self._poll(msgid, all, timeout, arguments, keywords)
            else:
                answer = super().result4(msgid, all, timeout, *arguments, **keywords)
        except ldap.TIMEOUT:
            raise
        except ldap.LDAPError as error:
            # The server's answer, complete.
            told = error.args[0] if error.args else None
            self._settle(told.get("msgid", msgid) if isinstance(told, dict) else msgid)
            raise
        if answer[0] not in (None, *_PARTS):
            self._settle(answer[2])
        return answer

    def _most_seconds(self) -> float:
        """For an answer where nothing else is said; -1: no limit."""
        if self._answers is None:
            chosen = self.get_option(ldap.OPT_TIMEOUT)
            self._answers = -1.0 if chosen is None else float(chosen)
        if self._answers >= 0:
            return self._answers
        return -1 if self.patience is None else self.patience

    def _settle(self, message: int) -> None:
        """Its answer is complete, or nobody wants it any more."""
        self.pending.discard(message)
        self._parts.pop(message, None)

    def _poll(self, message: int, all: int, seconds: float, arguments: Any, keywords: Any) -> Any:
        """What ``result4`` does, waiting at the socket instead of in C."""
        until = None if seconds < 0 else time.monotonic() + seconds
        collects = all == 1
        while True:
            if not collects and (kept := self._kept_part(message)) is not None:
                return kept
            # One by one: only then "nothing yet" means that libldap has nothing left in a buffer.
            answer = super().result4(message, 0 if collects else all, 0, *arguments, **keywords)
            if answer[0] is None:
                if seconds == 0:
                    return answer
                self._wait(until)
            elif collects and answer[0] in _PARTS:
                # Kept here: when the time is up somebody may ask once more.
                self._parts.setdefault(answer[2], deque()).append(answer)
            elif collects and (parts := self._parts.pop(answer[2], None)):
                return answer[0], [*(one for part in parts for one in part[1]), *answer[1]], *answer[2:]
            else:
                return answer

    def _kept_part(self, message: int) -> Any:
        """The first part of an answer that wasn't complete in time."""
        number = next(iter(self._parts), message) if message == ldap.RES_ANY else message
        parts = self._parts.get(number)
        if not parts:
            return None
        part = parts.popleft()
        if not parts:
            del self._parts[number]
        return part

    def _wait(self, until: float | None) -> None:
        left = RECHECK_INTERVAL if until is None else until - time.monotonic()
        if left <= 0:
            raise ldap.TIMEOUT({"desc": "Timed out"})
        descriptor = self.fileno() if self.descriptor is None else self.descriptor
        green.cooperative_wait(descriptor, min(left, RECHECK_INTERVAL))

    def _ldap_call(self, func: Any, *arguments: Any, **keywords: Any) -> Any:
        if not fork.noticed[0]:
            fork.notice()
        name = func.__name__
        if name in _CHANGES:
            self.is_changed = True
        elif name == "unbind_ext":
            # The number may be another file's in a moment.
            self.descriptor = None
        try:
            result = super()._ldap_call(func, *arguments, **keywords)
        except DEAD:
            self.is_dead = True
            raise
        if name == "result4" and result[0] is None:
            # Nothing yet: python-ldap would look for controls in it.
            return None
        if name in _SENDS:
            self.pending.add(result)
        elif name == "abandon_ext":
            self._settle(arguments[0])
        return result


def _is_of_tls(option: int) -> bool:
    # https://git.openldap.org/openldap/openldap/-/blob/master/include/ldap.h: the range of LDAP_OPT_X_TLS.
    return bool(ldap.OPT_X_TLS <= option < ldap.OPT_X_TLS + 0x100)


def use_native_locks() -> None:
    """Where gevent has patched threading, have python-ldap's locks work between native threads.

    They are held only while libldap runs, when no other greenlet can. python-ldap has made one already.
    """
    if green.patched("threading"):
        allocate = green.original("_thread", "allocate_lock")
        if ldap.LDAPLockBaseClass is not allocate:
            ldap.LDAPLockBaseClass = allocate
            renew_module_lock()


def renew_module_lock() -> None:
    """A new lock for python-ldap's module: in a forked child nobody may be left to release the old one."""
    ldap._ldap_module_lock._lock = ldap.LDAPLockBaseClass()


fork.in_child(renew_module_lock)
