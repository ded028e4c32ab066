"""Which folders of tests run in processes of their own, and in which: for each combination one."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from itertools import count, product
from typing import NamedTuple

import pytest

from tests.conftest import ALL_OF_MYSQL, require
from tests.slapd import Slapd

Environment = dict[str, str]

# Names of fixtures, the first one being what a combination's name doesn't say.
SERVERS = {
    "pymysql": ("mariadb", "mysql"),
    "mysqlclient": ("mariadb", "mysql"),
    "psycopg": ("postgresql",),
    "psycopg2": ("postgresql",),
    "sqlite3": ("",),
}
MODULES = {"mysqlclient": "MySQLdb"}
# Of those on MySQL, what `make test` runs.
ON_MYSQL = {"pymysql-mysql-gevent"}
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
    for driver, servers in SERVERS.items():
        for server, (concurrency, gevent) in product(servers, CONCURRENCY.items()):
            name = f"{driver}-{concurrency}" if server == servers[0] else f"{driver}-{server}-{concurrency}"
            if server == "mysql" and name not in ON_MYSQL and not ALL_OF_MYSQL:
                continue

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

            environment = {"POOLING_DRIVER": driver, "POOLING_SERVER": server, "POOLING_GEVENT": gevent}
            # Which database it is doesn't matter to who only collects.
            environment["POOLING_DATABASE_URL"] = "x://"
            yield Combination("behaviour", name, environment, [MODULES.get(driver, driver)], prepare)


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
