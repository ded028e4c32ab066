"""python-ldap's connection: cooperative under gevent, and aware of what makes it dirty or broken."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import ldap
from ldap.ldapobject import SimpleLDAPObject

from django_db_pooling.ldap import endings
from django_db_pooling.ldap.turns import wait_for_answer
from django_db_pooling.process import fork, green

# Functions of libldap that send a request and return its message number, and those that change the session.
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
# Where libldap follows a referral by itself, it does so in the hub, as nobody, for as long as it takes.
_USUAL = {ldap.OPT_REFERRALS: 0}
# Which option of libldap sets which part of a mark; not every libldap has them.
_KEEPALIVE = [
    getattr(ldap, name)
    for name in ("OPT_X_KEEPALIVE_IDLE", "OPT_X_KEEPALIVE_INTERVAL")
    if hasattr(ldap, name)
]
# Messages of an answer that others follow.
_PARTIAL = (ldap.RES_SEARCH_ENTRY, ldap.RES_SEARCH_REFERENCE, ldap.RES_INTERMEDIATE)
# After these errors the connection can't be used any more.
CONNECTION_BROKEN = (ldap.SERVER_DOWN, ldap.CONNECT_ERROR, ldap.UNAVAILABLE)
# Seconds between looks at libldap: what TLS has in its buffer makes no socket readable.
RECHECK_INTERVAL = 0.25


class Connector(SimpleLDAPObject):  # type: ignore[misc]
    """One connection to one server. It never reconnects by itself and sends nothing twice.

    Under gevent waiting for an answer lets other greenlets run. Connecting does not, nor do python-ldap's
    calls without a message number (SASL binds, ``start_tls_s``, ``whoami_s``): call ``open`` off the hub.
    """

    def __init__(self, uri: str, **arguments: Any) -> None:
        use_native_locks()
        # Message numbers of requests whose answer isn't complete.
        self.pending: set[int] = set()
        # What has come of answers that weren't complete in time, by message number.
        self._partial_answers: dict[int, deque[Any]] = {}
        # The request that was sent last, while nothing else is outstanding and nothing was read since.
        self._just_sent: int | None = None
        self.is_broken = False
        # Its user has bound it as another user, or set an option that can't be set back.
        self.is_dirty = False
        # The first values of options that were changed since it was opened.
        self._options_as_opened: dict[int, Any] = {}
        self._timeout_as_opened: float = -1
        self.descriptor: int | None = None
        # A copy of OPT_TIMEOUT; None: not read since it may have changed.
        self._opt_timeout: float | None = None
        # Seconds for an answer where neither the call nor an option limits it.
        self.answer_timeout: float | None = None
        super().__init__(uri, **arguments)

    def open(
        self,
        bind: str | None,
        password: str | None,
        *,
        start_tls: bool = False,
        options: Mapping[int, Any] | None = None,
        seconds: float | None = None,
        mark: endings.Mark | None = None,
    ) -> None:
        """Connect and bind (I/O that blocks). ``bind`` None: stay anonymous, without a bind.

        ``seconds``: for each answer, and for TCP to connect; a TLS handshake has no limit. ``mark``: of its
        socket until this is over. Raises ldap.LDAPError.
        """
        options = {**_USUAL, **(options or {})}
        # Otherwise any signal, SIGCHLD for example, looks like the end of the connection.
        self.set_option(ldap.OPT_RESTART, True)
        if seconds is not None:
            usual = options.get(ldap.OPT_NETWORK_TIMEOUT)
            self.set_option(ldap.OPT_NETWORK_TIMEOUT, seconds if usual in (None, -1) else min(usual, seconds))
            self.set_option(ldap.OPT_TIMEOUT, seconds)
        for option, value in options.items():
            if seconds is None or option not in (ldap.OPT_NETWORK_TIMEOUT, ldap.OPT_TIMEOUT):
                self.set_option(option, value)
        if ldap.OPT_X_TLS_NEWCTX not in options and any(map(_is_tls_option, options)):
            # TLS options have no effect on a connection unless this one is set, after them.
            self.set_option(ldap.OPT_X_TLS_NEWCTX, 0)
        has_mark = mark is not None and len(mark) == len(_KEEPALIVE)
        if mark is not None and has_mark:
            self._set_keepalive(mark)
        limit = -1 if seconds is None else seconds
        if start_tls:
            self.start_tls_s()
        if bind is None:
            # libldap connects with the first request.
            try:
                self._wait_for_answer(self.search_ext("", ldap.SCOPE_BASE, attrlist=["1.1"]), limit)
            except CONNECTION_BROKEN + (ldap.BUSY, ldap.TIMEOUT):
                raise
            except ldap.LDAPError:
                # Not everybody may read that; it is an answer.
                pass
        else:
            self._wait_for_answer(self.simple_bind(bind, password), limit)
        if seconds is not None:
            self.set_option(ldap.OPT_TIMEOUT, options.get(ldap.OPT_TIMEOUT, -1))
        self._timeout_as_opened = self.timeout
        if has_mark:
            intervals = [options.get(option, 0) for option in _KEEPALIVE]
            self._set_keepalive(intervals)
            endings.set_intervals(self.fileno(), intervals)
        self.descriptor = self.fileno()
        self.is_dirty = False

    def _set_keepalive(self, intervals: Sequence[int]) -> None:
        for option, seconds in zip(_KEEPALIVE, intervals, strict=True):
            self.set_option(option, seconds)

    @property
    def has_options_as_opened(self) -> bool:
        """Whether its options and its timeout are those with which it was opened."""
        return not self._options_as_opened and self.timeout == self._timeout_as_opened

    def restore_options(self) -> None:
        """Set them back to what they were; where that can't be done the connection is dirty."""
        self.timeout = self._timeout_as_opened
        while self._options_as_opened:
            try:
                super().set_option(*self._options_as_opened.popitem())
            except (TypeError, ValueError, ldap.LDAPError):
                # Some can't be set to the value that they have at first.
                self.is_dirty = True
        self._opt_timeout = None

    def set_option(self, option: int, invalue: Any) -> Any:
        self._opt_timeout = None
        if self.descriptor is not None and option not in self._options_as_opened:
            try:
                self._options_as_opened[option] = self.get_option(option)
            except (ValueError, ldap.LDAPError):
                # This one can't be read, so it couldn't be set back.
                self.is_dirty = True
        return super().set_option(option, invalue)

    def _wait_for_answer(self, message: int, seconds: float) -> None:
        """Not cooperative, since open() runs in a native thread."""
        try:
            super().result4(message, 1, seconds)
        finally:
            self.pending.discard(message)

    def rebind(self, bind: str, password: str | None, seconds: float) -> None:
        """Bind again as the same user (I/O): the password may be another by now. Raises ldap.LDAPError."""
        self.result4(self.simple_bind(bind, password), 1, seconds)
        self.is_dirty = False

    def replace_with(self, fresh: Connector) -> None:
        """Take over a fresh connection, whose object is of no use then. Changed options stay changed."""
        timeout = self.timeout
        changed = {option: self.get_option(option) for option in self._options_as_opened}
        self.__dict__.update(vars(fresh))
        self.timeout = timeout
        for option, value in changed.items():
            self.set_option(option, value)

    def is_usable(self, seconds: float | None) -> bool:
        """Whether the server answers (I/O)."""
        try:
            number = self.search_ext("", ldap.SCOPE_BASE, attrlist=["1.1"])
            self.result4(number, 1, -1 if seconds is None else seconds)
        except CONNECTION_BROKEN + (ldap.TIMEOUT,):
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
            timeout = self._timeout_in_effect()
        try:
            if green.patched("select"):
                answer = self._poll(msgid, all, timeout, arguments, keywords)
            else:
                answer = super().result4(msgid, all, timeout, *arguments, **keywords)
        except ldap.TIMEOUT:
            raise
        except ldap.LDAPError as error:
            # This is the server's answer, and complete.
            details = error.args[0] if error.args else None
            self._forget(details.get("msgid", msgid) if isinstance(details, dict) else msgid)
            raise
        if answer[0] not in (None, *_PARTIAL):
            self._forget(answer[2])
        return answer

    def _timeout_in_effect(self) -> float:
        """Of a call that has none of its own; -1: no limit."""
        if self._opt_timeout is None:
            option = self.get_option(ldap.OPT_TIMEOUT)
            self._opt_timeout = -1.0 if option is None else float(option)
        if self._opt_timeout >= 0:
            return self._opt_timeout
        return -1 if self.answer_timeout is None else self.answer_timeout

    def _forget(self, message: int) -> None:
        """The answer is complete, or was abandoned."""
        self.pending.discard(message)
        self._partial_answers.pop(message, None)

    def _poll(self, message: int, all: int, seconds: float, arguments: Any, keywords: Any) -> Any:
        """What ``result4`` does, waiting at the socket instead of in C."""
        until = None if seconds < 0 else time.monotonic() + seconds
        collects = all == 1
        if message == self._just_sent and seconds != 0:
            # Nothing of it can be in libldap's buffer.
            self._wait_for_data(until)
        while True:
            if not collects and (part := self._next_partial_answer(message)) is not None:
                return part
            # One message at a time: only then does "nothing yet" mean that libldap's buffer is empty.
            answer = super().result4(message, 0 if collects else all, 0, *arguments, **keywords)
            if answer[0] is None:
                if seconds == 0:
                    return answer
                self._wait_for_data(until)
            elif collects and answer[0] in _PARTIAL:
                # After a timeout the same answer may be asked for again.
                self._partial_answers.setdefault(answer[2], deque()).append(answer)
            elif collects and (parts := self._partial_answers.pop(answer[2], None)):
                return answer[0], [*(one for part in parts for one in part[1]), *answer[1]], *answer[2:]
            else:
                return answer

    def _next_partial_answer(self, message: int) -> Any:
        """The first part of an answer that wasn't complete in time."""
        number = next(iter(self._partial_answers), message) if message == ldap.RES_ANY else message
        parts = self._partial_answers.get(number)
        if not parts:
            return None
        part = parts.popleft()
        if not parts:
            del self._partial_answers[number]
        return part

    def _wait_for_data(self, until: float | None) -> None:
        left = RECHECK_INTERVAL if until is None else until - time.monotonic()
        if left <= 0:
            raise ldap.TIMEOUT({"desc": "Timed out"})
        descriptor = self.fileno() if self.descriptor is None else self.descriptor
        wait_for_answer(descriptor, min(left, RECHECK_INTERVAL))

    def _ldap_call(self, func: Any, *arguments: Any, **keywords: Any) -> Any:
        if not fork.noticed[0]:
            fork.notice()
        name = func.__name__
        if name == "result4":
            self._just_sent = None
        elif name in _CHANGES:
            self.is_dirty = True
        elif name == "unbind_ext":
            # The system may give this number to another file at once.
            self.descriptor = None
        try:
            result = super()._ldap_call(func, *arguments, **keywords)
        except CONNECTION_BROKEN:
            self.is_broken = True
            raise
        if name == "result4" and result[0] is None:
            # Nothing yet. Without this python-ldap would fail on the missing controls.
            return None
        if name in _SENDS:
            self._just_sent = None if self.pending else result
            self.pending.add(result)
        elif name == "abandon_ext":
            self._forget(arguments[0])
        return result


def _is_tls_option(option: int) -> bool:
    # The range of LDAP_OPT_X_TLS: https://git.openldap.org/openldap/openldap/-/blob/master/include/ldap.h
    return bool(ldap.OPT_X_TLS <= option < ldap.OPT_X_TLS + 0x100)


def use_native_locks() -> None:
    """Where gevent has patched threading, make python-ldap's locks native ones: we connect in native threads.

    No greenlet switches while one is held. python-ldap has made the module's lock already.
    """
    if green.patched("threading"):
        allocate = green.original("_thread", "allocate_lock")
        if ldap.LDAPLockBaseClass is not allocate:
            ldap.LDAPLockBaseClass = allocate
            renew_module_lock()


def renew_module_lock() -> None:
    """A new one for python-ldap's module: in a forked child the thread that holds the old one is missing."""
    ldap._ldap_module_lock._lock = ldap.LDAPLockBaseClass()


fork.in_child(renew_module_lock)
