"""What the log says of managers that can't be looked after."""

from __future__ import annotations

import pytest

from django_db_pooling.ldap import ConnectionManager
from django_db_pooling.process import upkeep


class Changing(ConnectionManager):
    """One that looks different each time, and fails."""

    looks = 0
    fails = True

    def __str__(self) -> str:
        self.looks += 1
        return f"{self.looks} connections"

    def every_second(self) -> bool:
        if self.fails:
            raise OSError
        return False


def test_a_manager_that_fails_is_logged_once_whatever_it_looks_like_and_beside_one_that_works(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failing, fine = (Changing("ldap://127.0.0.1:1") for _ in range(2))
    fine.fails = False
    for _ in range(3):
        assert [upkeep._look_after(each) for each in (failing, fine)] == [True, False]
    failing.fails = False
    assert not upkeep._look_after(failing)
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
