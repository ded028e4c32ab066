"""Which folders of tests run in processes of their own, and in which: for each combination one."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from itertools import count
from typing import NamedTuple

import pytest

from tests.conftest import require
from tests.slapd import Slapd

Environment = dict[str, str]

DRIVERS = {
    "pymysql": ("mariadb", "pymysql"),
    "mysqlclient": ("mariadb", "MySQLdb"),
    "psycopg": ("postgresql", "psycopg"),
    "psycopg2": ("postgresql", "psycopg2"),
    "sqlite3": ("", "sqlite3"),
}
CONCURRENCY = {"threads": "", "gevent": "1"}

_numbers = count(1)


class Combination(NamedTuple):
    """``name``: in brackets behind the name of each test, where the folder has several. ``modules``: without
    them nothing can be collected. ``prepare``: what the environment of a child says besides, at each start.
    """

    folder: str
    name: str
    environment: Environment
    modules: list[str]
    prepare: Callable[[pytest.FixtureRequest], Environment]

    def missing(self) -> list[str]:
        return [name for name in self.modules if importlib.util.find_spec(name) is None]


def _of_behaviour() -> Iterator[Combination]:
    for driver, (server, module) in DRIVERS.items():
        for concurrency, gevent in CONCURRENCY.items():
            name = f"{driver}-{concurrency}"

            def prepare(
                request: pytest.FixtureRequest, server: str = server, name: str = name
            ) -> Environment:
                """A database of its own: another child may have left something in that of before."""
                database = f"behaviour_{name.replace('-', '_')}_{next(_numbers)}"
                if not server:
                    directory = request.getfixturevalue("tmp_path_factory").mktemp("behaviour")
                    return {"POOLING_DATABASE_URL": f"sqlite://{directory}/{database}.sqlite3"}
                one = request.getfixturevalue(server)
                one.create(database)
                return {"POOLING_DATABASE_URL": one.url(database)}

            # Which database it is doesn't matter to who only collects.
            environment = {"POOLING_DRIVER": driver, "POOLING_GEVENT": gevent, "POOLING_DATABASE_URL": "x://"}
            yield Combination("behaviour", name, environment, [module], prepare)


def _of_ldap(folder: str, *modules: str) -> Iterator[Combination]:
    """Its children start a server of their own."""

    def prepare(request: pytest.FixtureRequest) -> Environment:
        require(Slapd)
        return {}

    for concurrency, gevent in CONCURRENCY.items():
        yield Combination(folder, concurrency, {"POOLING_GEVENT": gevent}, ["ldap", *modules], prepare)


FOLDERS = {
    "behaviour": list(_of_behaviour()),
    "ldap_backend": list(_of_ldap("ldap_backend", "ldapdb")),
    "ldap_manager": list(_of_ldap("ldap_manager")),
    "page": [Combination("page", "", {}, [], lambda request: {})],
}
