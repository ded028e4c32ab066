"""TLS of PyMySQL's connections: contexts that are made once, and handshakes that leave no socket open."""

from __future__ import annotations

import functools
import os
import ssl
from typing import Any

import pymysql


def _file_state(path: Any) -> tuple[object, ...]:
    """What changes when a file or a directory of certificates is replaced."""
    try:
        stat = os.stat(path)
    except (OSError, TypeError, ValueError):
        return (path,)
    return (path, stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)


class _Context:
    """A TLS context whose sockets are closed when their handshake is interrupted.

    wrap_socket() takes the descriptor over before the handshake: the socket that PyMySQL closes has none.
    """

    __slots__ = ("_context",)

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context

    def wrap_socket(self, sock: Any, **options: Any) -> Any:
        wrapped = self._context.wrap_socket(sock, do_handshake_on_connect=False, **options)
        try:
            wrapped.do_handshake()
        except BaseException:
            wrapped.close()
            raise
        return wrapped

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


def cache_contexts() -> None:
    """Make PyMySQL build its TLS context once for the same options and files, not in every connect.

    Building one loads the system's certificates, 20 ms of CPU. PyMySQL 1.2 does it by default,
    because it tries TLS first. A context given as ``ssl=`` would mean that TLS is required, so the
    place to cache it is where PyMySQL makes it. A context is meant to serve many connections.
    """
    build = pymysql.connections.Connection._create_ssl_ctx
    if hasattr(build, "__wrapped__"):
        return
    # Options and files -> what ssl.SSLContext was then, and the context.
    contexts: dict[Any, tuple[type[ssl.SSLContext], _Context]] = {}

    @functools.wraps(build)
    def create_ssl_ctx(self: Any, options: Any) -> _Context:
        if isinstance(options, ssl.SSLContext):
            return _Context(build(self, options))
        system = ssl.get_default_verify_paths()
        files = [options.get(name) for name in ("ca", "capath", "cert", "key")]
        files += [system.cafile, system.capath]
        try:
            key = (tuple(sorted(options.items())), tuple(_file_state(path) for path in files if path))
            cached = contexts.get(key)
        except TypeError:
            return _Context(build(self, options))
        if cached is not None and cached[0] is ssl.SSLContext:
            return cached[1]
        # A context from before gevent's patch does not work after it.
        context = _Context(build(self, options))
        if len(contexts) >= 16:
            contexts.clear()
        contexts[key] = (ssl.SSLContext, context)
        return context

    pymysql.connections.Connection._create_ssl_ctx = create_ssl_ctx
