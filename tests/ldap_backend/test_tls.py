"""LDAPS and StartTLS, with options of the connection."""

from __future__ import annotations

import time

import ldap
import pytest
from django.db import OperationalError

from django_db_pooling import pooling
from tests.concurrency import eventually, in_threads
from tests.ldap_backend.conftest import Configure, ask, assert_whole, in_a_request, mail, new
from tests.proxy import TcpProxy
from tests.slapd import Slapd

both = pytest.mark.parametrize("how", ["ldaps", "StartTLS"])


def test_it_works(secured: tuple[TcpProxy, str], server: Slapd) -> None:
    _, alias = secured
    in_threads([in_a_request(lambda number=number: ask(number)) for number in range(16)])
    new(uid="new1").save(force_insert=True)
    ask()
    assert pooling.stats(alias).opened <= 8
    assert_whole(alias, server)


def test_after_a_cut(secured: tuple[TcpProxy, str], server: Slapd) -> None:
    proxy, alias = secured
    ask()
    proxy.cut()
    ask()
    proxy.drop()
    ask()
    assert_whole(alias, server)


@both
def test_a_server_that_is_not_trusted(how: str, configure: Configure, server: Slapd) -> None:
    uri = server.tls_uri if how == "ldaps" else server.uri
    options = {ldap.OPT_X_TLS_REQUIRE_CERT: ldap.OPT_X_TLS_DEMAND}
    alias = configure(NAME=uri, TLS=how == "StartTLS", CONNECTION_OPTIONS=options)
    began = time.monotonic()
    with pytest.raises(OperationalError) as raised:
        mail()
    assert isinstance(raised.value, ldap.SERVER_DOWN | ldap.CONNECT_ERROR)
    assert "TLS: certificate verify failed: self-signed certificate" in str(raised.value)
    # CONNECT_RETRY is 5: it isn't tried again.
    assert time.monotonic() - began < 2
    eventually(lambda: pooling.stats(alias).opening == 0)
    assert (pooling.stats(alias).in_use, pooling.stats(alias).idle) == (0, 0)


@both
def test_each_alias_has_its_own_options(how: str, configure: Configure, server: Slapd) -> None:
    uri = server.tls_uri if how == "ldaps" else server.uri
    strict = {ldap.OPT_X_TLS_REQUIRE_CERT: ldap.OPT_X_TLS_DEMAND}
    trusting = strict | {ldap.OPT_X_TLS_CACERTFILE: str(server.certificate)}
    for _ in range(2):
        configure(NAME=uri, TLS=how == "StartTLS", CONNECTION_OPTIONS=trusting)
        ask()
        configure(NAME=uri, TLS=how == "StartTLS", CONNECTION_OPTIONS=strict)
        with pytest.raises(OperationalError):
            mail()
