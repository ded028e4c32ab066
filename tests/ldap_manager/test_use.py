"""What users do to connections, and that they find python-ldap as they know it."""

from __future__ import annotations

import gc
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.ldap_manager.conftest import Make, assert_whole, find, whoami
from tests.slapd import Slapd

EVERYBODY = "(objectClass=inetOrgPerson)"


def test_options_and_timeouts_are_undone(manager: Make, server: Slapd) -> None:
    import ldap

    one = manager(size=1, timeout=7, options={ldap.OPT_SIZELIMIT: 20})
    with one.connection() as connection:
        before = [connection.get_option(ldap.OPT_SIZELIMIT), connection.get_option(ldap.OPT_TIMEOUT)]
        assert (before[0], connection.timeout) == (20, 7)
        connection.set_option(ldap.OPT_SIZELIMIT, 3)
        connection.set_option(ldap.OPT_SIZELIMIT, 1)
        connection.sizelimit = 2
        connection.network_timeout = 3
        connection.set_option(ldap.OPT_TIMEOUT, 0.5)
        connection.timeout = 1
    with one.connection() as again:
        assert again is connection
        assert [again.get_option(ldap.OPT_SIZELIMIT), again.get_option(ldap.OPT_TIMEOUT)] == before
        assert again.timeout == 7
        assert len(find(again, server)) == 1


@pytest.mark.parametrize("name, value", [("OPT_X_TLS_NEWCTX", 0), ("OPT_X_TLS_CACERTFILE", "/nowhere")])
def test_options_that_cannot_be_undone_cost_the_connection(
    manager: Make, server: Slapd, name: str, value: Any
) -> None:
    import ldap

    one = manager(size=1)
    with one.connection() as connection:
        connection.set_option(ldap.OPT_SIZELIMIT, 3)
        connection.set_option(getattr(ldap, name), value)
    assert len(one) == 0
    assert_whole(one, server)


def test_a_connection_that_was_bound_as_another_user_is_not_handed_on(manager: Make, server: Slapd) -> None:
    import ldap

    one = manager(size=1)
    with one.connection() as connection:
        connection.simple_bind_s(server.user_dn(1), server.user_password(1))
        assert whoami(connection) == f"dn:{server.user_dn(1)}"
    assert len(one) == 0
    with one.connection() as connection, pytest.raises(ldap.INVALID_CREDENTIALS):
        connection.simple_bind_s(server.user_dn(1), "wrong")
    assert len(one) == 0
    with one.connection() as connection:
        assert whoami(connection) == f"dn:{server.user_dn(0)}"


def test_a_connection_with_an_answer_outstanding_is_not_handed_on(manager: Make, server: Slapd) -> None:
    import ldap

    one = manager(size=1)
    with one.connection() as connection:
        connection.search_ext(server.people_dn, ldap.SCOPE_SUBTREE, EVERYBODY)
    assert len(one) == 0
    with one.connection() as connection:
        number = connection.search_ext(server.people_dn, ldap.SCOPE_SUBTREE, EVERYBODY)
        assert connection.result(number, all=0)[0] == ldap.RES_SEARCH_ENTRY
    assert len(one) == 0
    with one.connection() as connection:
        number = connection.search_ext(server.people_dn, ldap.SCOPE_SUBTREE, EVERYBODY)
        connection.abandon(number)
        assert find(connection, server) == [server.user_dn(7)]
    assert len(one) == 1
    assert_whole(one, server)


def test_a_connection_that_its_user_has_closed_is_gone(manager: Make, server: Slapd) -> None:
    import ldap

    one = manager(size=1)
    with one.connection() as connection:
        connection.set_option(ldap.OPT_SIZELIMIT, 3)
        descriptor = connection.descriptor
        connection.unbind_s()
        assert not connection.connected
        # The number is another file's now.
        left, right = socket.socketpair()
        with left, right:
            assert descriptor in (left.fileno(), right.fileno())
            one._pool.driver.drop(connection)
            left.sendall(b"x")
            assert right.recv(1) == b"x"
    assert len(one) == 0
    assert_whole(one, server)


def test_an_exception_in_the_block_passes_and_the_connection_is_kept(manager: Make, server: Slapd) -> None:
    import ldap

    one = manager(size=1)
    with pytest.raises(ZeroDivisionError), one.connection() as first:
        raise ZeroDivisionError
    with pytest.raises(ldap.NO_SUCH_OBJECT), one.connection() as second:
        second.search_s("dc=nowhere", ldap.SCOPE_BASE)
    with pytest.raises(ldap.SIZELIMIT_EXCEEDED), one.connection() as third:
        third.search_ext_s(server.people_dn, ldap.SCOPE_SUBTREE, EVERYBODY, sizelimit=2)
    with one.connection() as fourth:
        assert first is second is third is fourth


def test_a_connection_that_is_dropped_is_reclaimed(manager: Make, server: Slapd) -> None:
    two = manager()
    for _ in range(5):
        one, other = two.connection(), two.connection(server.user_dn(1), server.user_password(1))
        one.__enter__()
        find(other.__enter__(), server)
        cycle: list[Any] = [one, other]
        cycle.append(cycle)
        del cycle, one, other
        gc.collect()
    assert_whole(two, server)


def test_a_subclass_of_the_connector_is_used(manager: Make, server: Slapd) -> None:
    from django_db_pooling.ldap import StateConnector

    class Mine(StateConnector):
        def find(self, uid: str) -> Any:
            return find(self, server, f"(uid={uid})")

    with manager(connector_cls=Mine).connection() as connection:
        assert connection.find("user003") == [server.user_dn(3)]


def test_an_anonymous_connection_needs_no_access_to_the_root(manager: Make) -> None:
    with Slapd(users=2, extra=['access to dn.base="" by users read by * none']) as strict:
        one = manager(strict.uri, bind=None, passwd=None, size=1)
        with one.connection() as connection:
            assert whoami(connection) == ""
            connection.simple_bind_s(strict.user_dn(1), strict.user_password(1))
            assert find(connection, strict, "(uid=user001)") == [strict.user_dn(1)]
        one._pool.suspect_all()
        with one.connection() as connection:
            assert whoami(connection) == ""


def test_code_written_for_ldappool_runs(server: Slapd) -> None:
    """With nothing changed but the import."""
    import ldap

    from django_db_pooling.ldap import (
        BackendError,
        ConnectionManager,
        MaxConnectionReachedError,
        StateConnector,
    )

    cm = ConnectionManager(
        server.uri,
        server.user_dn(0),
        server.user_password(0),
        10,
        3,
        0.1,
        False,
        -1,
        StateConnector,
        True,
        600,
    )
    assert (cm.uri, cm.bind, cm.size, cm.retry_max, cm.retry_delay) == (
        server.uri,
        server.user_dn(0),
        10,
        3,
        0.1,
    )
    assert (cm.use_tls, cm.timeout, cm.connector_cls, cm.use_pool) == (False, -1, StateConnector, True)
    assert cm.passwd == server.user_password(0)
    assert len(cm) == 0
    with cm.connection(bind=server.user_dn(1), passwd=server.user_password(1)) as conn:
        assert (conn.connected, conn.who, conn.cred) == (True, server.user_dn(1), server.user_password(1))
        assert conn.get_lifetime() >= 0
        assert conn.search_s(server.user_dn(1), ldap.SCOPE_BASE, "(objectClass=*)", ["uid"])[0][1] == {
            "uid": [b"user001"]
        }
    with cm.connection() as conn, cm.connection():
        assert len(cm) == 3
        assert conn.compare_s(server.user_dn(1), "uid", b"user001") is True
    cm.purge(server.user_dn(1), server.user_password(1))
    cm.purge(server.user_dn(1))
    assert server.user_dn(0) in str(cm)
    try:
        with cm.connection(server.user_dn(1), "wrong"):
            raise AssertionError
    except ldap.INVALID_CREDENTIALS:
        pass
    assert issubclass(MaxConnectionReachedError, Exception) and BackendError("why", None).args == ("why",)
    cm.close()


# -- as python-ldap -------------------------------------------------------------------------


def outcome(conversation: Callable[[Any], Any], client: Any) -> Any:
    """What it returns or raises."""
    import ldap

    try:
        return conversation(client)
    except ldap.TIMEOUT:
        # python-ldap's says nothing.
        return "timeout"
    except ldap.LDAPError as error:
        return type(error), {**error.args[0], "msgid": None, "msgtype": None}
    except (TypeError, ValueError) as error:
        return type(error)


def whole(client: Any, message: int, *how: Any, **more: Any) -> Any:
    """An answer, but for the number of the question."""
    answer = client.result4(message, *how, **more)
    assert answer[2] == message
    return answer[:2] + answer[3:]


def everything(client: Any, message: int, **how: Any) -> list[Any]:
    """All that there is to be had of an answer, part by part."""
    import ldap

    parts = []
    while True:
        answer = client.result4(message, **how)
        if answer[0] is None:
            time.sleep(0)
            continue
        parts.append(answer[:2] + answer[3:])
        if answer[0] not in (ldap.RES_SEARCH_ENTRY, ldap.RES_SEARCH_REFERENCE, ldap.RES_INTERMEDIATE):
            return parts


def joined(parts: list[Any]) -> Any:
    return [entry for part in parts for entry in part[1]], parts[-1][0], parts[-1][2:]


def conversations(server: Slapd) -> dict[str, Callable[[Any], Any]]:
    import ldap
    from ldap.controls import SimplePagedResultsControl
    from ldap.extop import ExtendedRequest

    subtree, people = ldap.SCOPE_SUBTREE, server.people_dn

    def search(client: Any, text: str = EVERYBODY, **more: Any) -> Any:
        return client.search_ext(people, subtree, text, ["uid"], **more)

    def paged(client: Any) -> Any:
        control, found = SimplePagedResultsControl(True, size=7, cookie=""), []
        while True:
            number = search(client, serverctrls=[control])
            _, entries, _, controls = client.result3(number)
            found.append(entries)
            [answer] = controls
            if not answer.cookie:
                return found
            control.cookie = answer.cookie

    def polled(client: Any) -> Any:
        number = search(client)
        answer = (None, None)
        while answer[0] is None:
            answer = client.result(number, 1, 0)
        return answer

    def any_of_two(client: Any) -> Any:
        numbers = [search(client), search(client, "(uid=user003)")]
        answers = [client.result4(ldap.RES_ANY, 1, 5) for _ in numbers]
        return sorted((numbers.index(answer[2]), repr(answer[1])) for answer in answers)

    def any_error(client: Any) -> Any:
        client.search_ext("dc=nowhere", subtree)
        return client.result4(ldap.RES_ANY, 1, 5)

    def pending(client: Any) -> Any:
        number = search(client)
        client.abandon(number)
        return client.result(number, 1, 0.05)

    return {
        "search": lambda client: client.search_s(people, subtree, EVERYBODY),
        "nothing": lambda client: client.search_s(people, subtree, "(uid=nobody)"),
        "no attributes": lambda client: client.search_s(people, subtree, EVERYBODY, ["1.1"], 1),
        "wrong filter": lambda client: client.search_s(people, subtree, "(uid="),
        "no such base": lambda client: client.search_s("dc=nowhere", subtree),
        "size limit": lambda client: client.search_ext_s(people, subtree, EVERYBODY, sizelimit=3),
        "size limit, part by part": lambda client: everything(client, search(client, sizelimit=3), all=0),
        "read": lambda client: client.read_s(server.user_dn(3)),
        "unique": lambda client: client.find_unique_entry(people, subtree, "(uid=user003)", ["uid"]),
        "not unique": lambda client: client.find_unique_entry(people, subtree, EVERYBODY, ["uid"]),
        "root": lambda client: sorted(client.read_rootdse_s()),
        "subschema": lambda client: client.search_subschemasubentry_s(),
        "all=0": lambda client: everything(client, search(client), all=0),
        "all=1": lambda client: everything(client, search(client), all=1),
        "all=2": lambda client: joined(everything(client, search(client), all=2)),
        "all=1, floating": lambda client: whole(client, search(client), 1, 2.5),
        "all=1, None": lambda client: whole(client, search(client), 1, None),
        "all=0, polling": lambda client: everything(client, search(client), all=0, timeout=0),
        "all=1, polling": polled,
        "all=2, polling": lambda client: joined(everything(client, search(client), all=2, timeout=0)),
        "controls, all=1": lambda client: whole(client, search(client), 1, 5, add_ctrls=1),
        "controls, all=0": lambda client: everything(client, search(client), all=0, add_ctrls=1),
        "any": any_of_two,
        "any error": any_error,
        "unknown number": lambda client: client.result(4711, 1, 0.02),
        "nothing outstanding": lambda client: client.result(ldap.RES_ANY, 1, 0),
        "abandoned": pending,
        "paged": paged,
        "compare": lambda client: [
            client.compare_s(server.user_dn(1), "uid", value) for value in (b"user001", b"other")
        ],
        "no compare": lambda client: client.compare_s(server.user_dn(1), "nothing", b"x"),
        "extended": lambda client: client.extop_s(ExtendedRequest("1.3.6.1.4.1.4203.1.11.3", None)),
        "unknown extended": lambda client: client.extop_s(ExtendedRequest("1.2.3.4", None)),
        "password": lambda client: client.passwd_s(
            server.user_dn(0), server.user_password(0), server.user_password(0)
        ),
        "not allowed": lambda client: client.add_s(
            f"ou=x,{people}", [("objectClass", b"organizationalUnit")]
        ),
        "wrong type": lambda client: client.search_s(5, subtree),
        "wrong timeout": lambda client: client.result4(1, 1, "soon"),
        "bind": lambda client: client.simple_bind_s(server.user_dn(2), server.user_password(2))[0],
        "wrong bind": lambda client: client.simple_bind_s(server.user_dn(2), "wrong"),
    }


def test_conversations_are_as_with_python_ldap(manager: Make, server: Slapd) -> None:
    import ldap

    one = manager(size=1)
    for name, conversation in conversations(server).items():
        stock = ldap.initialize(server.uri)
        stock.simple_bind_s(server.user_dn(0), server.user_password(0))
        expected = outcome(conversation, stock)
        stock.unbind_s()
        for _ in range(2):
            with one.connection() as connection:
                assert outcome(conversation, connection) == expected, name
    assert_whole(one, server)


@pytest.mark.parametrize("how", [0, 1, 2])
def test_parts_that_came_in_time_are_not_lost(how: int, manager: Make, server: Slapd) -> None:
    """Whoever asks again after a timeout gets all of it, in whatever way."""
    import ldap

    one = manager(size=1)
    with one.connection() as connection:
        number = connection.search_ext(server.people_dn, ldap.SCOPE_SUBTREE, EVERYBODY, ["uid"])
        for _ in range(10):
            answer = connection.result4(number, 1, 0)
            if answer[0] is not None:
                break
        parts = [answer] if answer[0] else everything(connection, number, all=how)
        assert len(joined(parts)[0]) == server.users
    assert len(one) == 1


def test_the_timeout_among_the_options_is_kept(manager: Make, server: Slapd) -> None:
    import ldap

    from tests.ldap_manager.conftest import uri_of
    from tests.proxy import TcpProxy

    with TcpProxy(server.host, server.port) as proxy:
        one = manager(uri_of(proxy), size=1, options={ldap.OPT_TIMEOUT: 0.2}, wait_timeout=60)
        with pytest.raises(ldap.TIMEOUT), one.connection() as connection:
            proxy.deaf()
            find(connection, server)
        proxy.resume()
        assert len(one) == 0


def test_a_large_answer(manager: Make) -> None:
    import ldap

    with Slapd(users=5000, extra=["sizelimit unlimited"]) as large:
        one = manager(large.uri, size=1)
        with one.connection() as connection:
            found = connection.search_s(large.people_dn, ldap.SCOPE_SUBTREE, EVERYBODY)
            # Looking for it again and again is as good.
            number = connection.search(large.people_dn, ldap.SCOPE_SUBTREE, EVERYBODY)
            answer: Any = (None, None)
            while answer[0] is None:
                time.sleep(0)
                answer = connection.result(number, 1, 0)
            assert answer == (ldap.RES_SEARCH_RESULT, found)
            # Or for all of it to begin with, and then for one after the other.
            number = connection.search(large.people_dn, ldap.SCOPE_SUBTREE, EVERYBODY)
            assert connection.result(number, 1, 0)[0] is None
            assert joined(everything(connection, number, all=0))[0] == found
        stock = ldap.initialize(large.uri)
        stock.simple_bind_s(large.user_dn(0), large.user_password(0))
        assert found == stock.search_s(large.people_dn, ldap.SCOPE_SUBTREE, EVERYBODY)
        stock.unbind_s()
    assert len(found) == 5000


def test_a_checkout_that_is_dropped_is_reclaimed_without_the_garbage_collector(
    manager: Make, server: Slapd
) -> None:
    """As by an exception between the checkout and the block."""
    one = manager(size=1)
    gc.disable()
    try:
        slot = one._check_out(one.bind, one._passwd())
        del slot
        assert (len(one), one.stats().reclaimed) == (0, 1)
    finally:
        gc.enable()
    assert_whole(one, server)


# -- ldappool's attributes ------------------------------------------------------------------


def test_a_connection_that_its_user_does_not_want_is_thrown_away(manager: Make, server: Slapd) -> None:
    two = manager()
    with two.connection() as connection:
        assert connection.connected
        connection.connected = False
        assert not connection.connected
        # It still works until then.
        assert find(connection, server) == [server.user_dn(7)]
    assert (len(two), two.stats().closed) == (0, 1)
    with two.connection() as another:
        assert another is not connection
        another.connected = False
        another.connected = True
    assert len(two) == 1


def test_a_connection_is_active_while_it_is_in_use(manager: Make, server: Slapd) -> None:
    two = manager()
    with two.connection() as connection:
        assert connection.active
    assert not connection.active
    with two.connection() as again:
        assert again is connection and again.active
        two.close()
    assert not again.active
