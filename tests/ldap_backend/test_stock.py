"""An alias with POOL = False is django-ldapdb's own, beside one that is pooled."""

from __future__ import annotations

import ldap
import pytest
from django.db import connections
from ldapdb.backends.ldap import base

from django_db_pooling import pooling
from django_db_pooling.backend.wrapper import PooledWrapper
from tests.ldap_backend.conftest import Configure, a_request, ask, mail, spent
from tests.slapd import Slapd


def test_it_binds_each_time(configure: Configure, server: Slapd) -> None:
    name = configure(POOL=False)
    with a_request():
        ask()
        before = server.monitor()
        ask()
        assert spent(server, before) == {"binds": 2, "searches": 2}
    assert name not in pooling.stats()
    connections[name].close()


def test_it_is_of_the_usual_class(configure: Configure) -> None:
    name = configure(POOL=False)
    assert type(connections[name]) is base.DatabaseWrapper
    assert not isinstance(connections[name], PooledWrapper)
    ask()
    assert isinstance(connections[name].connection, ldap.ldapobject.ReconnectLDAPObject)
    connections[name].close()


def test_its_errors_are_the_usual_ones(configure: Configure) -> None:
    name = configure(POOL=False, PASSWORD="wrong")
    with pytest.raises(Exception) as raised:
        mail()
    assert not isinstance(raised.value, ldap.LDAPError)
    connections[name].close()


def test_the_pooled_class_goes_by_the_same_name(alias: str) -> None:
    wrapper = connections[alias]
    assert isinstance(wrapper, PooledWrapper) and isinstance(wrapper, base.DatabaseWrapper)
    assert type(wrapper).__name__ == "DatabaseWrapper"
    assert type(wrapper).__module__ == base.__name__
