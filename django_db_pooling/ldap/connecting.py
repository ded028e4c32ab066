"""Connecting to one of several LDAP servers."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping
from typing import Any, TypeVar

import ldap

from django_db_pooling.ldap import endings, tls
from django_db_pooling.ldap.connector import Connector
from django_db_pooling.ldap.servers import servers
from django_db_pooling.log import redact

C = TypeVar("C", bound=Connector)

# The server isn't there or accepts nobody: another one may, or the same one in a moment.
SERVER_AWAY = (ldap.SERVER_DOWN, ldap.CONNECT_ERROR, ldap.UNAVAILABLE, ldap.BUSY, ldap.TIMEOUT)


def connect(
    cls: type[C],
    uris: str,
    bind: str | None,
    password: str | None,
    *,
    start_tls: bool = False,
    options: Mapping[int, Any] | None = None,
    timeout: float = -1,
    seconds: float | None = None,
) -> C:
    """A connection to the next server in turn, or else to another one of the list (I/O that blocks).

    ``timeout``: seconds for each answer later on, -1: no limit. ``seconds``: for all of this; only an attempt
    limits a TLS handshake. A wrong password isn't tried on another server: that could lock the account.
    Raises ldap.LDAPError.
    """
    balancer = servers(uris)
    until = None if seconds is None else time.monotonic() + seconds
    candidates = balancer.in_order()
    for others in reversed(range(len(candidates))):
        uri = candidates[-1 - others]
        left = None if until is None else max(until - time.monotonic(), 0.01)
        connection = cls(uri)
        connection.timeout = timeout
        seconds_for_one = balancer.seconds_for_one(left, others)
        try:
            with balancer.trying(uri), endings.limited(seconds_for_one) as step:
                _open(connection, step, bind, password, start_tls, options, seconds_for_one)
        except SERVER_AWAY:
            balancer.mark_away(uri)
            close(connection)
            if not others or endings.is_given_up():
                raise
        except BaseException:
            close(connection)
            raise
        else:
            balancer.mark_up(uri)
            return connection
    raise AssertionError("a list of URIs is never empty")


def _open(
    connection: Connector,
    step: endings.Step | None,
    bind: str | None,
    password: str | None,
    start_tls: bool,
    options: Mapping[int, Any] | None,
    seconds: float | None,
) -> None:
    began = time.monotonic()
    uses_tls = start_tls or connection._uri.lower().startswith("ldaps:")
    mark = None if step is None else step.mark
    try:
        connection.open(bind, password, start_tls=start_tls, options=options, seconds=seconds, mark=mark)
    except (ldap.SERVER_DOWN, ldap.CONNECT_ERROR) as error:
        if uses_tls and (step is None or not step.has_ended):
            left = math.inf if seconds is None else began + seconds - time.monotonic()
            why = _trouble(connection, start_tls, error, left)
            if why is not None:
                raise tls.with_trouble(error, why) from None
        if step is None or not step.has_ended:
            raise
    except ldap.LDAPError:
        if step is None or not step.has_ended:
            raise
    if step is not None and step.has_ended:
        info = f"{redact(connection._uri)} is still silent after {time.monotonic() - began:.1f} s"
        if uses_tls:
            info += ", perhaps in the TLS handshake"
        raise ldap.TIMEOUT({"desc": "Timed out", "info": info})


def _trouble(connection: Connector, start_tls: bool, error: ldap.LDAPError, seconds: float) -> str | None:
    """Why TLS has failed, if it has."""
    why = tls.trouble(connection._uri, start_tls, connection.get_option, seconds)
    if why is None and "unknown error code" in str(error):
        # What libldap says when GnuTLS has no error and it is libldap that refuses.
        return "the handshake has failed, libldap doesn't say why"
    return why


def close(connection: Connector) -> None:
    """Unbind (a send) and free libldap's memory. Harmless when that has been done."""
    connection.descriptor = None
    # AttributeError: python-ldap's object was unbound already.
    with contextlib.suppress(ldap.LDAPError, AttributeError):
        connection.unbind_s()
