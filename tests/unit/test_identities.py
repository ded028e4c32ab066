"""Whom a connection is bound as, without the password."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator

import pytest

from django_db_pooling.ldap.identities import Identities, Identity, Secret


@pytest.fixture
def impatient_threads() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_the_same_name_and_password_are_one() -> None:
    identities = Identities()
    one = identities.of("a", "x")
    assert identities.of("a", b"x") is one
    others = [
        identities.of(*other) for other in (("a", "y"), ("b", "x"), ("a", None), (None, None), (None, "x"))
    ]
    assert len({id(other) for other in [one, *others]}) == 6


def test_an_identity_is_forgotten_with_its_last_reference() -> None:
    identities = Identities()
    one = identities.of("a", "x")
    assert len(identities._known) == 1
    del one
    gc.collect()
    assert len(identities._known) == 0


def test_threads_that_ask_at_the_same_time_get_the_same(impatient_threads: None) -> None:
    for _ in range(200):
        identities = Identities()
        got: list[Identity] = []
        together = threading.Barrier(8)

        def ask(identities=identities, got=got, together=together) -> None:
            together.wait()
            got.append(identities.of("a", "x"))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(one is got[0] for one in got)


def test_a_secret_equals_the_password_and_hides_it() -> None:
    secret = Secret("x")
    assert secret == "x" == secret and secret == b"x" and secret == Secret("x")
    assert secret != "y" and secret != Secret("y") and secret != None and secret != 1  # noqa: E711
    assert hash(secret) == hash(Secret(b"x")) != hash("x")
    assert repr(secret) == str(secret) == "<secret>"
