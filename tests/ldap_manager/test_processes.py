"""Processes that fork, that end, and that have no Django."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from tests.slapd import Slapd

Run = Callable[..., list[Any]]

both_forks = pytest.mark.parametrize("fork", ["os.fork", "silent_fork"])


@both_forks
def test_a_child_opens_its_own_and_the_parents_go_on(in_process: Run, server: Slapd, fork: str) -> None:
    before = server.monitor()
    reported = in_process(
        f"fork = {fork}\n"
        """
with manager.connection():
    with manager.connection():
        pass
with manager.connection() as mine, manager.connection() as other:
    pass
with manager.connection() as mine:
    number = mine.descriptor
    pid = fork()
    if not pid:
        # One is in use, one was idle.
        assert len(manager) == 0
        with manager.connection() as own, manager.connection() as another:
            report([find(own), find(another), own is not mine and another is not mine])
        report(len(manager))
        gc.collect()
        # What the parent has given it heals by itself, on a connection of the child's.
        report(find(mine))
        report(len(manager))
        sys.exit()
    assert wait(pid) == 0
    report([find(mine, "user008"), mine.descriptor == number])
with manager.connection() as one, manager.connection() as two:
    report([find(one), find(two), len(manager)])
"""
    )
    dn = [server.user_dn(7)]
    assert reported == [[dn, dn, True], 2, dn, 2, [[server.user_dn(8)], True], [dn, dn, 2]]
    # Two of the parent's, two of the child's and the one that has healed.
    assert server.monitor().total_connections - before.total_connections == 5


@both_forks
def test_a_child_opens_no_connections_for_min_size_before_its_own_first_use(
    in_process: Run, server: Slapd, fork: str
) -> None:
    reported = in_process(f"""
fork = {fork}
one = ConnectionManager(URI, BIND, PASSWORD, size=2, min_size=1)
with one.connection():
    pass
pid = fork()
if not pid:
    report([one.every_second(), len(one)])
    with one.connection():
        pass
    report(one.every_second())
    os._exit(0)
assert wait(pid) == 0
""")
    assert reported == [[False, 0], True]


@both_forks
@pytest.mark.parametrize("end", ["sys.exit()", "os._exit(0)", "os.kill(os.getpid(), 9)", "raise SystemExit"])
def test_a_child_that_leaves_the_block_disturbs_nobody(
    in_process: Run, server: Slapd, end: str, fork: str
) -> None:
    reported = in_process(f"""
fork = {fork}
def work():
    with manager.connection() as mine:
        with manager.connection():
            pass
        pid = fork()
        if pid:
            assert wait(pid) in (0, -9)
            report(find(mine))
            return
        own = manager.connection()
        own.__enter__()
    # The child has left the block with its parent's connection, and goes on with one of its own.
    assert len(manager) == 1
    with manager.connection() as another:
        find(another)
        assert len(manager) == 2
    own.__exit__(None, None, None)
    assert len(manager) == 2
    {end}
work()
with manager.connection() as one, manager.connection() as two:
    report([find(one), find(two)])
""")
    assert reported == [[server.user_dn(7)], [[server.user_dn(7)]] * 2]


@both_forks
def test_a_fork_while_another_thread_connects_for_the_first_time(
    in_process: Run, server: Slapd, fork: str
) -> None:
    """The child has no such thread: its place must be free."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
        reported = in_process(f"""
fork = {fork}
one = ConnectionManager("ldaps://127.0.0.1:{port}", BIND, PASSWORD, size=1, wait_timeout=1)
def use():
    try:
        with one.connection():
            pass
    except ldap.TIMEOUT:
        pass
thread = threading.Thread(target=use)
thread.start()
eventually(lambda: one.stats().opening)
pid = fork()
if not pid:
    report(len(one))
    one.uri = URI
    with one.connection() as connection:
        report(find(connection))
    os._exit(0)
assert wait(pid) == 0
thread.join()
eventually(lambda: len(one) == 0)
""")
    assert reported == [0, [server.user_dn(7)]]


def test_a_process_ends_silently(in_process: Run, server: Slapd) -> None:
    """While connections are idle, in use and being made."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
        reported = in_process(f"""
stuck = ConnectionManager("ldaps://127.0.0.1:{port}", BIND, PASSWORD, size=1, wait_timeout=0.1)
try:
    with stuck.connection():
        pass
except ldap.TIMEOUT:
    pass
with manager.connection():
    pass
in_use = manager.connection()
report(find(in_use.__enter__()))
other = manager.connection()
report(find(other.__enter__()))
other.__exit__(None, None, None)
cycle = [in_use]
cycle.append(cycle)
def use():
    with stuck.connection():
        pass
threading.Thread(target=use, daemon=True).start()
""")
    assert reported == [[server.user_dn(7)]] * 2


def test_idle_connections_are_unbound_at_the_end(in_process: Run, server: Slapd) -> None:
    assert in_process("""
with manager.connection() as connection:
    report(find(connection))
""") == [[server.user_dn(7)]]


def test_django_is_not_needed(in_process: Run, server: Slapd) -> None:
    assert in_process("""
assert not any(name.partition(".")[0] == "django" for name in sys.modules)
sys.modules["django"] = None
with manager.connection() as connection:
    report(find(connection))
report([manager.authenticate(BIND, PASSWORD), manager.authenticate(BIND, "wrong")])
""") == [[server.user_dn(7)], [True, False]]


@pytest.mark.gevent
def test_hubs_of_several_native_threads_share_connections(in_process: Run, server: Slapd) -> None:
    reported = in_process("""
import gevent
from gevent import monkey
start = monkey.get_original("_thread", "start_new_thread")
three = ConnectionManager(URI, BIND, PASSWORD, size=3, wait_timeout=10)
found, seen = [], []
def use():
    for _ in range(10):
        with three.connection() as connection:
            found.append(find(connection))
            seen.append(len(three))
        assert three.authenticate(BIND, PASSWORD)
def run():
    gevent.joinall([gevent.spawn(use) for _ in range(5)], raise_error=True)
    over.append(None)
over = []
for _ in range(4):
    start(run, ())
run()
eventually(lambda: len(over) == 5)
report([len(found), max(seen) <= 3, found.count(found[0])])
report([three.stats().in_use, three.stats().waiting])
""")
    assert reported == [[250, True, 250], [0, 0]]


@both_forks
def test_a_child_can_connect_whatever_its_parents_threads_did_at_that_moment(
    in_process: Run, server: Slapd, fork: str
) -> None:
    reported = in_process(
        f"fork = {fork}\n"
        """
# As a thread that is just making a connection.
ldap._ldap_module_lock.acquire()
pid = fork()
if not pid:
    signal.alarm(5)
    with manager.connection() as connection:
        report(find(connection))
    os._exit(0)
report(wait(pid))
"""
    )
    assert reported == [[server.user_dn(7)], 0]
