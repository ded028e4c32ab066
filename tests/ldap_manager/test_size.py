"""How many connections there are, whose, for how long, and who waits for one."""

from __future__ import annotations

import threading
import time

import pytest

from tests.ldap_manager.conftest import (
    PATIENCE,
    Make,
    assert_whole,
    beside,
    eventually,
    find,
    held,
    repeatedly,
    together,
    whoami,
)
from tests.slapd import Slapd


def test_30_threads_with_size_3_open_3(manager: Make, server: Slapd) -> None:
    three = manager(size=3)
    before = server.monitor()
    everybody = threading.Barrier(30)

    def use() -> None:
        everybody.wait(PATIENCE)
        for number in range(10):
            with three.connection() as connection:
                assert find(connection, server, f"(uid=user{number:03})") == [server.user_dn(number)]
                time.sleep(0.002)

    with repeatedly(lambda: server.monitor().connections) as seen:
        together(*[use] * 30)
    after = server.monitor()
    assert max(seen) <= 3 and len(three) == 3
    assert after.total_connections - before.total_connections == 3
    assert after.binds - before.binds == 3
    assert three.stats().checkouts == 300


def test_30_threads_of_30_users_with_size_3_have_at_most_3(manager: Make, server: Slapd) -> None:
    three = manager(size=3, wait_timeout=PATIENCE)

    def use(number: int) -> None:
        for _ in range(3):
            with three.connection(server.user_dn(number), server.user_password(number)) as connection:
                assert whoami(connection) == f"dn:{server.user_dn(number)}"
                assert len(three) <= 3

    together(*[lambda number=number: use(number) for number in range(30)])
    # One that was cut to make room counts until the server has read its end.
    eventually(lambda: server.monitor().connections == len(three) <= 3)


def test_a_waiting_caller_gets_what_is_given_back(manager: Make, server: Slapd) -> None:
    one = manager(size=1, wait_timeout=None)
    before = server.monitor()

    def use() -> list[str]:
        with one.connection() as connection:
            return find(connection, server)

    holding = one.connection()
    holding.__enter__()
    with beside(use) as found:
        eventually(lambda: one.stats().waiting == 1)
        assert found == []
        holding.__exit__(None, None, None)
    assert found == [[server.user_dn(7)]]
    assert server.monitor().total_connections - before.total_connections == 1


def test_who_comes_first_is_served_first(manager: Make) -> None:
    one = manager(size=1)
    served: list[int] = []

    def use(number: int) -> None:
        with one.connection():
            served.append(number)

    holding = one.connection()
    holding.__enter__()
    with (
        beside(lambda: use(0)),
        beside(lambda: eventually(lambda: one.stats().waiting == 1) or use(1)),
        beside(lambda: eventually(lambda: one.stats().waiting == 2) or use(2)),
    ):
        eventually(lambda: one.stats().waiting == 3)
        holding.__exit__(None, None, None)
    assert served == [0, 1, 2]


def test_the_error_after_waiting_in_vain_says_how_long(manager: Make, server: Slapd) -> None:
    from django_db_pooling.ldap import MaxConnectionReachedError

    full = manager(wait_timeout=0.2)
    with held(full, 2):
        with pytest.raises(MaxConnectionReachedError) as caught, full.connection():
            pass
        assert 0.2 <= caught.value.waited < PATIENCE
        assert "2 in use" in str(caught.value)
        with pytest.raises(MaxConnectionReachedError), full.connection(server.user_dn(1), "wrong"):
            pass
        with pytest.raises(MaxConnectionReachedError):
            full.authenticate(server.user_dn(1), server.user_password(1))
    assert_whole(full, server)


def test_with_no_time_to_wait_a_free_one_or_a_new_one_is_had_but_nobody_waits(
    manager: Make, server: Slapd
) -> None:
    from django_db_pooling.ldap import MaxConnectionReachedError

    never = manager(wait_timeout=0)
    with held(never, 2) as connections:
        with pytest.raises(MaxConnectionReachedError) as caught, never.connection():
            pass
        assert caught.value.waited == 0
        # It is no limit for what is asked later.
        assert [find(connection, server) for connection in connections] == [[server.user_dn(7)]] * 2
    with never.connection(server.user_dn(1), server.user_password(1)) as connection:
        assert whoami(connection) == f"dn:{server.user_dn(1)}"
    with never.connection(server.user_dn(1), server.user_password(1)) as connection:
        assert whoami(connection) == f"dn:{server.user_dn(1)}"
    assert_whole(never, server)


@pytest.mark.parametrize(
    "wrong",
    [{"size": 0}, {"size": -1}, {"min_size": 3}, {"min_size": -1}, {"uri": " "}, {"connector_cls": object}],
)
def test_arguments_that_make_no_sense_are_refused(manager: Make, wrong: dict[str, object]) -> None:
    with pytest.raises(TypeError if "connector_cls" in wrong else ValueError):
        manager(**wrong)


# -- whose ----------------------------------------------------------------------------------


def test_no_user_gets_the_connection_of_another(manager: Make, server: Slapd) -> None:
    two = manager()
    before = server.monitor()
    with two.connection() as mine, two.connection(server.user_dn(1), server.user_password(1)) as other:
        assert [whoami(mine), whoami(other)] == [f"dn:{server.user_dn(number)}" for number in (0, 1)]
    for _ in range(3):
        with two.connection() as connection:
            assert connection is mine
            assert whoami(connection) == f"dn:{server.user_dn(0)}"
    middle = server.monitor()
    # One each; and our own is never asked again.
    assert middle.binds - before.binds == middle.total_connections - before.total_connections == 2
    with two.connection(server.user_dn(1), server.user_password(1)) as connection:
        assert connection is other
        assert whoami(connection) == f"dn:{server.user_dn(1)}"
    after = server.monitor()
    assert (after.binds - middle.binds, after.total_connections - middle.total_connections) == (1, 0)


def test_an_idle_one_of_another_user_makes_room(manager: Make, server: Slapd) -> None:
    two = manager()
    with held(two, 2) as mine:
        pass
    before = server.monitor()
    with two.connection(server.user_dn(1), server.user_password(1)) as connection:
        assert whoami(connection) == f"dn:{server.user_dn(1)}"
        assert connection not in mine
        assert len(two) == 2
        eventually(lambda: server.monitor().connections == 2)
    assert server.monitor().binds - before.binds == 1
    # The one that is left is still its owner's.
    with two.connection() as connection:
        assert connection in mine and whoami(connection) == f"dn:{server.user_dn(0)}"
    assert_whole(two, server)


def test_anonymous_is_a_user_too(manager: Make, server: Slapd) -> None:
    anonymous = manager(bind=None, passwd=None)
    before = server.monitor()
    with anonymous.connection() as connection:
        assert (whoami(connection), connection.who, connection.cred) == ("", None, None)
    assert server.monitor().binds == before.binds
    with anonymous.connection(server.user_dn(1), server.user_password(1)) as other:
        assert whoami(other) == f"dn:{server.user_dn(1)}"
    with anonymous.connection() as again:
        assert again is connection and whoami(again) == ""


# -- for how long ---------------------------------------------------------------------------


def test_an_old_connection_is_replaced(manager: Make, server: Slapd) -> None:
    short = manager(max_lifetime=0.2, size=1)
    with short.connection() as first:
        assert 0 <= first.get_lifetime() < PATIENCE
        [slot] = short._pool.slots.all()
        eventually(lambda: time.monotonic() > slot.expires_at)
        assert find(first, server) == [server.user_dn(7)]
    with short.connection() as second:
        assert second is not first
    # Idle ones, too, by the housekeeper.
    eventually(lambda: len(short) == 0 and server.monitor().connections == 0)


def test_idle_connections_are_closed_but_for_min_size(manager: Make, server: Slapd) -> None:
    some = manager(size=5, min_size=2, idle_timeout=0.3)
    with held(some, 5):
        assert server.monitor().connections == 5
    eventually(lambda: len(some) == 2 and server.monitor().connections == 2)
    time.sleep(0.5)
    assert (len(some), server.monitor().connections) == (2, 2)
    before = server.monitor()
    with held(some, 2):
        assert server.monitor().total_connections == before.total_connections


def test_min_size_is_kept_open(manager: Make, server: Slapd) -> None:
    some = manager(size=3, min_size=2)
    assert len(some) == 0
    with some.connection():
        pass
    eventually(lambda: (len(some), some.stats().idle) == (2, 2))
    some.purge(server.user_dn(0))
    eventually(lambda: (len(some), some.stats().idle) == (2, 2))
    assert {connection.who for connection in some._pool.connections()} == {server.user_dn(0)}


def test_without_a_pool_each_use_has_its_own(manager: Make, server: Slapd) -> None:
    none = manager(use_pool=False, size=1, min_size=1)
    before = server.monitor()
    with none.connection() as one, none.connection() as other:
        assert one is not other
        assert len(none) == 2
    assert len(none) == 0
    eventually(lambda: server.monitor().connections == 0)
    assert none.authenticate(server.user_dn(1), server.user_password(1))
    after = server.monitor()
    assert after.binds - before.binds == after.total_connections - before.total_connections == 3


# -- purge and close ------------------------------------------------------------------------


def test_purge_closes_idle_ones_now_and_others_as_they_come_back(manager: Make, server: Slapd) -> None:
    three = manager(size=3)
    user, password = server.user_dn(1), server.user_password(1)
    with three.connection() as mine:
        pass
    with three.connection(user, password) as used:
        with three.connection(user, password):
            pass
        eventually(lambda: server.monitor().connections == 3)
        three.purge(user)
        eventually(lambda: server.monitor().connections == 2)
        assert whoami(used) == f"dn:{user}"
    assert len(three) == 1
    eventually(lambda: server.monitor().connections == 1)
    with three.connection() as again:
        assert again is mine


def test_purge_keeps_those_with_the_password(manager: Make, server: Slapd) -> None:
    three = manager(size=3)
    user, password = server.user_dn(1), server.user_password(1)
    with three.connection(user, password) as kept:
        pass
    three.purge(user, password)
    with three.connection(user, password) as connection:
        assert connection is kept
        three.purge(user, password)
    assert len(three) == 1
    three.purge(user, "another one")
    assert len(three) == 0


def test_after_close_the_next_use_opens_anew(manager: Make, server: Slapd) -> None:
    two = manager()
    with two.connection() as used:
        with two.connection():
            pass
        two.close()
        eventually(lambda: server.monitor().connections == 1)
        assert find(used, server) == [server.user_dn(7)]
    assert len(two) == 0
    with two.connection() as connection:
        assert find(connection, server) == [server.user_dn(7)]


def test_purging_while_others_use_loses_nothing(manager: Make, server: Slapd) -> None:
    three = manager(size=3, wait_timeout=PATIENCE)

    def use(number: int) -> None:
        for turn in range(40):
            whose = (number + turn) % 3
            with three.connection(server.user_dn(whose), server.user_password(whose)) as connection:
                assert whoami(connection) == f"dn:{server.user_dn(whose)}"

    def purge() -> None:
        for number in range(3):
            three.purge(server.user_dn(number))

    with repeatedly(purge):
        together(*[lambda number=number: use(number) for number in range(8)])
    assert_whole(three, server)
