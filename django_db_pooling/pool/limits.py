"""The numbers that bound one pool."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Counts of connections, and seconds. ``None`` stands for "no limit" throughout."""

    size: int = 10
    max_outstanding: int | None = 20
    timeout: float | None = 30.0
    min_size: int = 0
    idle_timeout: float | None = 300.0
    max_age: float | None = 3600.0
    max_waiting: int | None = None
    connect_retry: float = 5.0
    keepalive: float | None = 60.0
    leak_threshold: float | None = None
    slow_checkout: float | None = 1.0
    # After so long without a word an idle connection is asked something.
    ping: float | None = None
    # Between two look-ups of the server's address.
    follow_host: float | None = None
    # Whether statements that are given up are ended at the server.
    cancel: bool = True
    # While nobody is served within so many seconds, callers are turned away.
    wait_target: float | None = None
    # Of all processes of the host together.
    host_limit: int | None = None
