"""What errors say: where to write to, and what is wrong with a certificate."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.ldap_manager.conftest import Make, find
from tests.slapd import Slapd

both = pytest.mark.parametrize("way", ["ldaps", "StartTLS"])


@pytest.fixture(scope="module")
def expired() -> Iterator[Slapd]:
    with Slapd(users=1, tls=True) as server:
        server.expire_certificate()
        yield server


def caught(manager: Any) -> BaseException:
    import ldap

    from django_db_pooling.ldap import BackendError

    with pytest.raises((ldap.SERVER_DOWN, BackendError)) as raised, manager.connection():
        pass
    return raised.value


@both
@pytest.mark.parametrize(
    ("trouble", "text"),
    [
        ("expired", "certificate has expired"),
        ("unknown", "self-signed certificate"),
        ("other host", "Hostname mismatch"),
    ],
)
def test_the_trouble_with_a_certificate(
    way: str, trouble: str, text: str, manager: Make, server: Slapd, expired: Slapd
) -> None:
    import ldap

    there = expired if trouble == "expired" else server
    # In libldap this means the machine's own name, which isn't in the certificate.
    host = "localhost" if trouble == "other host" else there.host
    options: dict[int, Any] = {ldap.OPT_X_TLS_REQUIRE_CERT: ldap.OPT_X_TLS_DEMAND}
    if trouble != "unknown":
        options[ldap.OPT_X_TLS_CACERTFILE] = str(there.certificate)
    uri = f"ldaps://{host}:{there.tls_port}" if way == "ldaps" else f"ldap://{host}:{there.port}"
    two = manager(uri, use_tls=way == "StartTLS", options=options)
    began = time.monotonic()
    said = str(caught(two))
    # It isn't tried again: that would not help.
    assert time.monotonic() - began < 2
    assert "TLS" in said and text in said
    assert (len(two), two.stats().opening) == (0, 0)


@both
def test_nothing_is_said_of_tls_where_nobody_is_there(way: str, manager: Make) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    scheme = "ldap" if way == "StartTLS" else "ldaps"
    one = manager(f"{scheme}://127.0.0.1:{port}", use_tls=way == "StartTLS", connect_retry=0)
    assert "TLS" not in str(caught(one))


def test_any_certificate_is_accepted_where_the_options_say_so(manager: Make, expired: Slapd) -> None:
    import ldap

    two = manager(
        expired.tls_uri,
        bind=expired.user_dn(0),
        passwd=expired.user_password(0),
        options={ldap.OPT_X_TLS_REQUIRE_CERT: ldap.OPT_X_TLS_NEVER},
    )
    with two.connection() as connection:
        assert find(connection, expired, "(uid=user000)") == [expired.user_dn(0)]
    two.close()


def test_a_referral_is_not_followed_and_its_error_says_where_to_write_to(
    manager: Make, server: Slapd
) -> None:
    import ldap

    with (
        closing(socket.create_server(("127.0.0.1", 0))) as silent,
        Slapd(users=1, extra=[f"referral ldap://127.0.0.1:{silent.getsockname()[1]}"]) as consumer,
    ):
        provider = f"ldap://127.0.0.1:{silent.getsockname()[1]}"
        two = manager(consumer.uri, bind=consumer.admin_dn, passwd=consumer.password)
        change = [(ldap.MOD_REPLACE, "sn", [b"x"])]
        began = time.monotonic()
        with two.connection() as connection:
            assert connection.get_option(ldap.OPT_REFERRALS) == 0
            with pytest.raises(ldap.REFERRAL, match=provider):
                connection.modify_s("cn=x,dc=elsewhere,dc=org", change)
            assert find(connection, consumer, "(uid=user000)")
        assert time.monotonic() - began < 1
        assert two.stats().idle == 1
        # Nobody has been there.
        silent.settimeout(0.1)
        with pytest.raises(TimeoutError):
            silent.accept()
        two.close()


def test_referrals_are_followed_where_the_options_say_so(manager: Make, server: Slapd) -> None:
    import ldap

    with manager(options={ldap.OPT_REFERRALS: 1}).connection() as connection:
        assert connection.get_option(ldap.OPT_REFERRALS) != 0
