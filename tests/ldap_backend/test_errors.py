"""What is raised, and that whoever catches Django's errors or python-ldap's catches it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import ldap
import pytest
from django.db import Error, OperationalError, connections

from django_db_pooling import pooling
from django_db_pooling.exceptions import PoolTimeout
from tests.concurrency import PATIENCE, eventually, in_thread
from tests.ldap_backend.conftest import (
    Configure,
    Setting,
    a_request,
    ask,
    held,
    in_a_request,
    in_use,
    mail,
    new,
    spent,
)
from tests.ldap_backend.models import User
from tests.servers import free_port
from tests.slapd import Slapd

both_scopes = pytest.mark.parametrize("scope", ["request", "transaction"])


def caught(function: Callable[[], Any], kind: type[BaseException]) -> Any:
    with pytest.raises(kind) as raised:
        function()
    return raised.value


@both_scopes
def test_a_wrong_password(scope: str, configure: Configure, server: Slapd) -> None:
    alias = configure(PASSWORD="wrong", POOL={"SCOPE": scope})
    with a_request():
        before = server.monitor()
        error = caught(mail, OperationalError)
        # It isn't tried again: that could lock the account.
        assert spent(server, before) == {"binds": 1}
        assert type(error.__cause__) is ldap.INVALID_CREDENTIALS
        assert error.args[0]["desc"] == "Invalid credentials"
        caught(mail, ldap.INVALID_CREDENTIALS)
    assert (in_use(alias), pooling.stats(alias).idle) == (0, 0)


@both_scopes
def test_no_server(scope: str, configure: Configure) -> None:
    alias = configure(NAME=f"ldap://127.0.0.1:{free_port()}", POOL={"SCOPE": scope})
    with a_request():
        error = caught(mail, OperationalError)
        assert type(error.__cause__) is ldap.SERVER_DOWN
        caught(mail, ldap.SERVER_DOWN)
        caught(lambda: new().save(force_insert=True), OperationalError)
    assert (in_use(alias), pooling.stats(alias).idle) == (0, 0)


def test_a_server_that_comes_back_is_waited_for(configure: Configure, server: Slapd, proxy: Any) -> None:
    alias = configure(NAME=f"ldap://{proxy.host}:{proxy.port}", POOL={"CONNECT_RETRY": 5})
    proxy.refuse()
    asking = threading.Thread(target=ask)
    asking.start()
    eventually(lambda: pooling.stats(alias).opening == 1)
    proxy.resume()
    asking.join(PATIENCE)
    assert pooling.stats(alias).opened == 1
    ask()


def test_errors_about_data_stay_python_ldaps(everywhere: Setting) -> None:
    connection = connections[everywhere.alias]
    nobody = f"uid=nobody,{Slapd.people_dn}"
    change = [(ldap.MOD_REPLACE, "sn", [b"x"])]
    for operation, kind in (
        (lambda: connection.modify_s(nobody, change), ldap.NO_SUCH_OBJECT),
        (lambda: connection.delete_s(nobody), ldap.NO_SUCH_OBJECT),
        (lambda: connection.rename_s(nobody, "uid=x"), ldap.NO_SUCH_OBJECT),
        (lambda: list(connection.search_s(nobody, ldap.SCOPE_BASE)), ldap.NO_SUCH_OBJECT),
        (lambda: connection.add_s(Slapd.people_dn, [("objectClass", [b"top"])]), ldap.LDAPError),
        (lambda: list(connection.search_s(Slapd.base_dn, 2, "(broken")), ldap.FILTER_ERROR),
        (lambda: connection.delete_s("what?"), ldap.INVALID_DN_SYNTAX),
        (lambda: connection.delete_s(Slapd.people_dn), ldap.NOT_ALLOWED_ON_NONLEAF),
    ):
        error = caught(operation, kind)
        assert not isinstance(error, Error)
        ask()
    assert pooling.stats(everywhere.alias).opened == 1


def test_a_write_that_is_refused(configure: Configure, server: Slapd) -> None:
    configure(USER=server.user_dn(1), PASSWORD=server.user_password(1))
    error = caught(lambda: new().save(), ldap.INSUFFICIENT_ACCESS)
    assert not isinstance(error, Error)
    ask()


@both_scopes
def test_a_full_pool(scope: str, configure: Configure) -> None:
    alias = configure(POOL={"SIZE": 1, "MAX_OUTSTANDING": 1, "TIMEOUT": 0.1, "SCOPE": scope})
    with held():
        error = in_thread(in_a_request(lambda: caught(mail, PoolTimeout)))
        assert isinstance(error, OperationalError)
        assert not isinstance(error, ldap.LDAPError)
        assert alias in str(error)
        in_thread(in_a_request(lambda: caught(lambda: new().save(force_insert=True), PoolTimeout)))
    assert pooling.stats(alias).timeouts == 2
    ask()


def test_an_error_in_the_middle_of_a_loop_leaves_nothing_behind(everywhere: Setting) -> None:
    with pytest.raises(ZeroDivisionError):
        for _ in User.objects.iterator():
            raise ZeroDivisionError
    ask()
    assert pooling.stats(everywhere.alias).opened == 1


@both_scopes
def test_a_referral_is_not_followed_and_its_error_says_where_to_write_to(
    scope: str, configure: Configure
) -> None:
    provider = f"ldap://127.0.0.1:{free_port()}"
    with Slapd(users=1, extra=[f"referral {provider}"]) as consumer:
        alias = configure(NAME=consumer.uri, POOL={"SCOPE": scope})
        with a_request():
            change = [(ldap.MOD_REPLACE, "sn", [b"x"])]
            with pytest.raises(ldap.REFERRAL, match=provider):
                connections[alias].modify_s("cn=x,dc=elsewhere,dc=org", change)
            assert mail(0)
        assert pooling.stats(alias).opened == 1
        assert pooling.close_all(alias)
