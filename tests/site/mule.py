"""A program that uWSGI runs in a process beside its workers, ``--mule``, which it forks as well."""

from __future__ import annotations

import time

from tests.site.views import connection_number, tokens

print(f"the mule's connection is {connection_number()}", flush=True)
while True:
    assert tokens("the mule's") == {"the mule's"}
    time.sleep(0.05)
