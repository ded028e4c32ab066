"""Why a TLS handshake has failed: libldap with GnuTLS says "(unknown error code)" whatever it was.

Asked of Python's ssl, in one handshake more, with the same certificates. Nothing else is sent.
"""

from __future__ import annotations

import _socket
import ssl
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import ldap

from django_db_pooling.log import redact

# More than this (seconds) nobody waits for an explanation.
MAX_SECONDS = 2.0
# The request to begin with TLS: https://www.rfc-editor.org/rfc/rfc4511#section-4.14
_START = bytes.fromhex("301d02010177188016") + b"1.3.6.1.4.1.1466.20037"
_CHUNK = 16_384
# In the details of an error.
_KEY = "tls"
_PORT_OF_LDAPS = 636
# libldap verifies nothing then.
_ANY_CERTIFICATE = (ldap.OPT_X_TLS_NEVER, ldap.OPT_X_TLS_ALLOW)


def says_trouble(error: Any) -> bool:
    """Whether this error of python-ldap's is one that ``with_trouble`` has made."""
    details = error.args[0] if error.args else None
    return isinstance(details, dict) and _KEY in details


def with_trouble(error: ldap.LDAPError, why: str) -> ldap.LDAPError:
    """The same error, that says why TLS has failed."""
    details = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
    return type(error)({**details, "info": f"TLS: {why}", _KEY: why})


def trouble(uri: str, start_tls: bool, option: Callable[[int], Any], seconds: float) -> str | None:
    """What is wrong with the server's certificate, or with its TLS; None: nothing that can be seen here.

    Blocks, in a native thread. ``option``: python-ldap's ``get_option`` of the connection that has failed.
    """
    parts = urlsplit(uri)
    if parts.scheme.lower() not in ("ldap", "ldaps"):
        return None
    host, port = parts.hostname or "localhost", parts.port
    # As in libldap, which wants to find the machine's name in the certificate then.
    name = _socket.gethostname() if host == "localhost" else host
    if port is None:
        port = ldap.PORT if start_tls else _PORT_OF_LDAPS
    until = time.monotonic() + min(seconds, MAX_SECONDS)
    try:
        handshake = _Handshake(_context(option), name)
    except (ssl.SSLError, OSError) as error:
        return f"the certificates to trust can't be read: {redact(error)}"
    try:
        found = _socket.getaddrinfo(host, port, 0, _socket.SOCK_STREAM)[0]
        _shake_hands(found, start_tls, handshake, until)
    except ssl.SSLCertVerificationError as error:
        return f"certificate verify failed: {redact(error.verify_message)}"
    except ssl.SSLEOFError:
        pass
    except ssl.SSLError as error:
        return redact(error.reason or error)
    except (OSError, ValueError):
        # It isn't there.
        pass
    return None


def _context(option: Callable[[int], Any]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if option(ldap.OPT_X_TLS_REQUIRE_CERT) in _ANY_CERTIFICATE:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    file, folder = option(ldap.OPT_X_TLS_CACERTFILE), option(ldap.OPT_X_TLS_CACERTDIR)
    if file or folder:
        context.load_verify_locations(file, folder)
    else:
        context.load_default_certs()
    return context


class _Handshake:
    """Without a socket: that is a plain one, also where gevent has patched them."""

    def __init__(self, context: ssl.SSLContext, host: str) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)

    def go_on(self) -> bool:
        """Whether more is needed from the server."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return True
        return False

    def said(self) -> bytes:
        return self._outgoing.read()

    def hear(self, data: bytes) -> None:
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()


def _shake_hands(found: Any, start_tls: bool, handshake: _Handshake, until: float) -> None:
    """Raises OSError, of which ssl's errors are."""
    kind, _, protocol, _, address = found
    link = _socket.socket(kind, _socket.SOCK_STREAM, protocol)
    try:
        link.settimeout(_left(until))
        link.connect(address)
        if start_tls:
            link.sendall(_START)
            link.recv(_CHUNK)
        _exchange(link, handshake, until)
    finally:
        link.close()


def _exchange(link: _socket.socket, handshake: _Handshake, until: float) -> None:
    while handshake.go_on():
        link.settimeout(_left(until))
        link.sendall(handshake.said())
        handshake.hear(link.recv(_CHUNK))


def _left(until: float) -> float:
    return max(until - time.monotonic(), 0.01)
