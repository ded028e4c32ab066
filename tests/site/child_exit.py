"""Configuration of gunicorn, as prometheus_client wants it: a worker that died has no gauges any more."""

from __future__ import annotations

from typing import Any


def child_exit(server: Any, worker: Any) -> None:
    from prometheus_client import multiprocess

    multiprocess.mark_process_dead(worker.pid)
