"""A signal's handler raises anywhere in this package: no slot is lost, no answer mixed up."""

from __future__ import annotations

import gc
import random
import threading
import time
from contextlib import suppress

import pytest

from tests.ldap_manager.conftest import PATIENCE, Make, assert_whole, eventually, find, whoami
from tests.slapd import Slapd
from tests.strikes import Strikes, Struck

# In gevent a signal's handler runs in whatever greenlet is at it, the hub too.
pytestmark = pytest.mark.threads

SECONDS = 1.5
LEAST_POINTS = 15


def test_a_signal_at_any_point(manager: Make, server: Slapd) -> None:
    """Others wait for the same two connections, as different people, and go on."""
    two = manager()
    strikes, over = Strikes(), threading.Event()
    served: list[int] = []

    def use(number: int) -> None:
        whose = (server.user_dn(number), server.user_password(number)) if number else ()
        with two.connection(*whose) as connection:
            assert find(connection, server, f"(uid=user{number:03})") == [server.user_dn(number)]
            assert whoami(connection) == f"dn:{server.user_dn(number)}"
        served.append(number)

    def others(number: int) -> None:
        while not over.is_set():
            use(number)

    threads = [threading.Thread(target=others, args=(number,), daemon=True) for number in (0, 1, 2)]
    for thread in threads:
        thread.start()
    try:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            if random.random() < 0.2:
                two.close()
            with suppress(Struck), strikes.within(0.01 * random.random() ** 3):
                use(random.randrange(3))
    finally:
        over.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads), "somebody waits for ever"
    gc.collect()
    assert set(served) == {0, 1, 2}
    assert len(strikes.hits) >= LEAST_POINTS, strikes
    eventually(lambda: two.stats().in_use == 0)
    assert_whole(two, server)
