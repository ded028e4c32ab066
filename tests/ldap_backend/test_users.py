"""Code that does something else with the raw connection than django-ldapdb does: nobody else has that."""

from __future__ import annotations

import ldap
import pytest
from django.db import connections

from django_db_pooling import pooling
from tests.ldap_backend.conftest import Configure, Setting, ask, new
from tests.ldap_backend.models import User
from tests.slapd import Slapd


def who(alias: str) -> str:
    """Whom the server takes the next user of a connection for."""
    with connections[alias].cursor() as cursor:
        return str(cursor.connection.whoami_s())


def _rounded(value: object) -> object:
    # Seconds are not read as exactly as they were set.
    return round(value, 3) if isinstance(value, float) else value


def test_a_connection_is_bound_as_the_settings_say(everywhere: Setting) -> None:
    assert who(everywhere.alias) == f"dn:{Slapd.admin_dn}"
    assert who(everywhere.alias) == f"dn:{Slapd.admin_dn}"
    assert pooling.stats(everywhere.alias).opened == 1


def test_a_connection_that_was_bound_as_another_user(everywhere: Setting, server: Slapd) -> None:
    with connections[everywhere.alias].cursor() as cursor:
        cursor.connection.simple_bind_s(server.user_dn(1), server.user_password(1))
        assert cursor.connection.whoami_s() == f"dn:{server.user_dn(1)}"
    pooling.release(everywhere.alias)
    assert who(everywhere.alias) == f"dn:{server.admin_dn}"
    assert pooling.stats(everywhere.alias).opened == 2


def test_a_bind_that_failed(everywhere: Setting, server: Slapd) -> None:
    with connections[everywhere.alias].cursor() as cursor, pytest.raises(ldap.INVALID_CREDENTIALS):
        cursor.connection.simple_bind_s(server.user_dn(1), "wrong")
    pooling.release(everywhere.alias)
    assert who(everywhere.alias) == f"dn:{server.admin_dn}"


def test_models_are_queried_as_the_user_of_the_settings(everywhere: Setting, server: Slapd) -> None:
    """Also in the rest of a request that keeps the connection on which a password was checked."""
    with connections[everywhere.alias].cursor() as cursor:
        cursor.connection.simple_bind_s(server.user_dn(1), server.user_password(1))
    new(uid="new1").save(force_insert=True)
    with connections[everywhere.alias].cursor() as cursor, pytest.raises(ldap.INVALID_CREDENTIALS):
        cursor.connection.simple_bind_s(server.user_dn(1), "wrong")
    ask()
    assert who(everywhere.alias) == f"dn:{server.admin_dn}"


def test_an_anonymous_alias(configure: Configure) -> None:
    alias = configure(USER="", PASSWORD="")
    assert who(alias) == ""
    # The server hides everything from whoever hasn't bound.
    with pytest.raises(ldap.NO_SUCH_OBJECT):
        list(User.objects.all())
    assert pooling.stats(alias).opened == 1


def test_a_bind_whose_answer_was_not_read(everywhere: Setting, server: Slapd) -> None:
    with connections[everywhere.alias].cursor() as cursor:
        cursor.connection.simple_bind(server.user_dn(1), server.user_password(1))
    pooling.release(everywhere.alias)
    assert who(everywhere.alias) == f"dn:{server.admin_dn}"


def test_a_search_whose_answer_was_not_read(everywhere: Setting) -> None:
    with connections[everywhere.alias].cursor() as cursor:
        cursor.connection.search_ext(Slapd.base_dn, ldap.SCOPE_SUBTREE)
    pooling.release(everywhere.alias)
    ask()


def test_a_search_that_was_abandoned_is_over(everywhere: Setting) -> None:
    with connections[everywhere.alias].cursor() as cursor:
        number = cursor.connection.search_ext(Slapd.base_dn, ldap.SCOPE_SUBTREE)
        cursor.connection.abandon(number)
    pooling.release(everywhere.alias)
    ask()
    ask(8)


def test_a_connection_that_was_unbound(everywhere: Setting) -> None:
    with connections[everywhere.alias].cursor() as cursor:
        cursor.connection.unbind_s()
    pooling.release(everywhere.alias)
    ask()
    assert pooling.stats(everywhere.alias).opened == 2


def test_options_and_the_timeout_are_as_before(everywhere: Setting) -> None:
    def look() -> list[object]:
        with connections[everywhere.alias].cursor() as cursor:
            connection = cursor.connection
            options = (ldap.OPT_SIZELIMIT, ldap.OPT_DEREF, ldap.OPT_NETWORK_TIMEOUT, ldap.OPT_TIMEOUT)
            return [connection.timeout, *(_rounded(connection.get_option(option)) for option in options)]

    before = look()
    with connections[everywhere.alias].cursor() as cursor:
        connection = cursor.connection
        connection.timeout = 3
        connection.set_option(ldap.OPT_SIZELIMIT, 2)
        connection.set_option(ldap.OPT_SIZELIMIT, 1)
        connection.set_option(ldap.OPT_DEREF, ldap.DEREF_ALWAYS)
        connection.network_timeout = 2
        connection.set_option(ldap.OPT_TIMEOUT, 4)
    pooling.release(everywhere.alias)
    assert look() == before
    ask()


def test_other_calls_of_python_ldap_work(everywhere: Setting, server: Slapd) -> None:
    with connections[everywhere.alias].cursor() as cursor:
        connection = cursor.connection
        found = connection.search_s(server.user_dn(7), ldap.SCOPE_BASE, attrlist=["mail"])
        assert found == [(server.user_dn(7), {"mail": [b"user007@example.org"]})]
        assert connection.compare_s(server.user_dn(7), "sn", b"007")
        assert connection.read_s(server.user_dn(7), attrlist=["sn"]) == {"sn": [b"007"]}
        parts = []
        number = connection.search(Slapd.people_dn, ldap.SCOPE_ONELEVEL)
        while (answer := connection.result(number, all=0))[0] == ldap.RES_SEARCH_ENTRY:
            parts += answer[1]
        assert len(parts) == server.users
    pooling.release(everywhere.alias)
    ask()
    assert pooling.stats(everywhere.alias).opened == 1
