"""Processes that open connections under HOST_LIMIT and die: ``python -m tests.e2e.host_storm SEED``.

All are forked from this one, whose settings are the test site's. For each line of standard input it changes
between a storm and a quiet moment, in which nobody does anything, and answers with a line. What goes wrong
goes to standard error. The end of standard input is the end of all.
"""

from __future__ import annotations

import mmap
import os
import random
import select
import signal
import sys
import threading
import time

import django
from django.db import connection, transaction

PROCESSES = 50
# Shared with all children: whether it is quiet.
_quiet = mmap.mmap(-1, 1)


def use(chance: random.Random, until: float) -> None:
    """In a thread: one short transaction after the other."""
    while time.monotonic() < until:
        if _quiet[0]:
            time.sleep(0.02)
            continue
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("SELECT 1")
                time.sleep(chance.uniform(0, 0.05))
        except Exception as error:
            os.write(2, f"{error!r}\n".encode())
        finally:
            connection.close()
        time.sleep(chance.choice([0, 0, 0.1, 0.5]) * chance.random())


def live(chance: random.Random) -> None:
    until = time.monotonic() + chance.uniform(0.5, 10)
    threads = [
        threading.Thread(target=use, args=(random.Random(chance.random()), until), daemon=True)
        for _ in range(chance.randint(1, 3))
    ]
    for thread in threads:
        thread.start()
    if chance.random() < 0.5:
        for thread in threads:
            thread.join()
        # With what is idle, in order.
        sys.exit()
    while time.monotonic() < until - 0.2 or _quiet[0]:
        time.sleep(0.01)
    # In the middle of something.
    chance.choice([lambda: os._exit(0), lambda: os.kill(os.getpid(), signal.SIGKILL)])()


def begin(chance: random.Random) -> int:
    seed = chance.random()
    pid = os.fork()
    if not pid:
        # The end of the storm is its own, not the children's.
        os.close(0)
        live(random.Random(seed))
        sys.exit()
    return pid


def main() -> None:
    django.setup()
    chance = random.Random(int(sys.argv[1]))
    children: set[int] = set()
    master = os.getpid()
    print("ready", flush=True)
    try:
        while True:
            for pid in list(children):
                if os.waitpid(pid, os.WNOHANG)[0]:
                    children.discard(pid)
            if not _quiet[0]:
                if len(children) < PROCESSES:
                    children.add(begin(chance))
                elif chance.random() < 0.1:
                    # At any point of anything.
                    os.kill(chance.choice(sorted(children)), signal.SIGKILL)
            if select.select([0], [], [], 0.02)[0]:
                if not os.read(0, 1):
                    return
                _quiet[0] = not _quiet[0]
                print("quiet" if _quiet[0] else "storm", len(children), flush=True)
    finally:
        # A child that ends passes here, too.
        for pid in children if os.getpid() == master else ():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
