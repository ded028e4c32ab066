"""Configuration of gunicorn: when its last worker has ended, the master uses its own session once more."""

from __future__ import annotations

from typing import Any


def on_exit(server: Any) -> None:
    from tests.site.views import connection_number

    print(f"the master's connection is {connection_number()}", flush=True)
