"""Another process of the same site: it opens as many connections as it is told, and keeps them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.concurrency import PATIENCE
from tests.folders import ROOT

# Each line that it reads says how many are in use from now on; those beyond become idle.
SCRIPT = """
import json, os, sys
alias, changes, status_dir = json.loads(sys.argv[1])
if os.environ.get("POOLING_GEVENT"):
    from gevent import monkey
    monkey.patch_all()
import threading
import django
django.setup()
from copy import deepcopy
from django.conf import settings
from django.db import connections
from django_db_pooling import pooling
settings.DB_POOL_STATUS_DIR = status_dir
connections.settings[alias] = deepcopy(connections.settings["default"]) | changes
pooling.patch()
ends = []

def use(ready, over):
    with pooling.scope("request"):
        with connections[alias].cursor() as cursor:
            cursor.execute("SELECT 1")
        ready.set()
        over.wait()

while True:
    if os.environ.get("POOLING_GEVENT"):
        # Reading would stop all greenlets.
        from gevent.socket import wait_read
        wait_read(0)
    line = sys.stdin.readline()
    if not line:
        break
    wanted = int(line)
    while len(ends) < wanted:
        ready, over = threading.Event(), threading.Event()
        thread = threading.Thread(target=use, args=(ready, over))
        thread.start()
        ready.wait()
        ends.append((thread, over))
    while len(ends) > wanted:
        thread, over = ends.pop()
        over.set()
        thread.join()
    print(json.dumps([pooling.stats(alias).in_use, pooling.stats(alias).idle]), flush=True)
os._exit(0)
"""


class Neighbour:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def use(self, count: int) -> list[int]:
        """How many it has in use, and idle."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        answer: list[int] = json.loads(self.process.stdout.readline())
        return answer

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)


@contextmanager
def neighbour(alias: str, changes: dict[str, Any], status_dir: str) -> Iterator[Neighbour]:
    """With this alias, which is the default one with these changes."""
    command = [sys.executable, "-c", SCRIPT, json.dumps([alias, changes, status_dir])]
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "tests.behaviour.settings"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        one = Neighbour(process)
        try:
            yield one
        finally:
            one.kill()
