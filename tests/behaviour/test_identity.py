"""A connection is used only for the server, database, user and session settings it was opened for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import django
import pytest
from django.db import connection, connections
from django.db.utils import ConnectionHandler
from django.test.utils import override_settings

from django_db_pooling import pooling
from django_db_pooling.backend.checkout import find_identity
from django_db_pooling.exceptions import PoolTimeout
from django_db_pooling.registry import registry
from tests.behaviour.conftest import (
    MYSQL,
    POSTGRESQL,
    another_alias,
    assert_whole,
    committed,
    eventually,
    held,
    in_thread,
    in_threads,
    one,
    plain,
    request_finished,
    request_started,
    sql,
    token,
)
from tests.behaviour.models import Note
from tests.behaviour.observer import DRIVER, Observer

SECRET = "f9b1-secret"


@pytest.fixture
def second_database(observer: Observer, tmp_path: Path) -> Iterator[str]:
    if DRIVER == "sqlite3":
        yield str(tmp_path / "second.sqlite3")
        return
    name = f"{observer.name}_second"
    observer.rows(f"DROP DATABASE IF EXISTS {name}")
    observer.rows(f"CREATE DATABASE {name}")
    yield name
    if POSTGRESQL:
        observer.rows(f"DROP DATABASE {name} WITH (FORCE)")
    else:
        observer.rows(f"DROP DATABASE {name}")


@contextlib.contextmanager
def changed(alias: str, **changes: Any) -> Iterator[None]:
    """The settings changed in place, as Django does for a test database."""
    settings_dict = connections.settings[alias]
    before = {key: settings_dict[key] for key in changes}
    settings_dict.update(changes)
    try:
        yield
    finally:
        settings_dict.update(before)


def database_in_use(alias: str) -> str:
    if MYSQL:
        return str(sql("SELECT DATABASE()", using=alias)[0][0])
    if POSTGRESQL:
        return str(sql("SELECT current_database()", using=alias)[0][0])
    return os.path.basename(sql("PRAGMA database_list", using=alias)[0][2])


def test_a_name_changed_in_place_never_meets_the_old_database(second_database: str) -> None:
    with another_alias() as alias:
        with held(2, alias):
            one(alias)
            connections[alias].close()
        first = database_in_use(alias)
        connections[alias].close()
        second = os.path.basename(second_database)
        for _ in range(3):
            with changed(alias, NAME=second_database):
                for _ in range(5):
                    assert in_thread(lambda: database_in_use(alias)) == second
                assert database_in_use(alias) == second
                connections[alias].close()
            assert in_threads([lambda: database_in_use(alias)] * 4) == [first] * 4
            assert database_in_use(alias) == first
            connections[alias].close()
        eventually(lambda: pooling.stats(alias).in_use == 0)
        assert_whole(alias)


def test_what_is_in_use_while_the_name_changes_does_not_go_back_to_others(second_database: str) -> None:
    with another_alias() as alias:
        request_started()
        first = database_in_use(alias)
        with changed(alias, NAME=second_database):
            request_finished()
            assert in_thread(lambda: database_in_use(alias)) != first
        eventually(lambda: pooling.stats(alias).in_use == 0)


def test_what_is_in_use_while_a_setting_changes_is_closed_once_it_has_come_back() -> None:
    with another_alias() as alias:
        request_started()
        token(alias)
        with changed(alias, CONN_HEALTH_CHECKS=True):
            request_finished()
            eventually(lambda: pooling.stats(alias).idle == 0)
            assert pooling.stats(alias).closed_by_reason["recycled"] == 1


@pytest.mark.parametrize("scope", ["request", "transaction"])
def test_autocommit_of_other_settings_stays_with_them(scope: str) -> None:
    """It is changed while a connection is in use, and back before anybody looks."""
    with another_alias() as alias, pooling.scope(scope):
        token(alias)
        settings_dict = connections[alias].settings_dict
        connections[alias].set_autocommit(False)
        settings_dict["AUTOCOMMIT"] = False
        connections[alias].close()
        settings_dict["AUTOCOMMIT"] = True
        token(alias)
        assert connections[alias].get_autocommit()
        assert pooling.stats(alias).opened == 1


@pytest.mark.only("pymysql", "psycopg")
def test_a_reset_leaves_autocommit_as_the_settings_have_it() -> None:
    change = "SET @mine = 1" if MYSQL else "SET my.own = '1'"
    with another_alias(AUTOCOMMIT=False) as alias:
        for _ in range(3):
            request_started()
            sql(change, using=alias)
            raw: Any = connections[alias].connection
            assert not (raw.get_autocommit() if MYSQL else raw.autocommit)
            request_finished()
        assert pooling.stats(alias).resets == 3
        assert pooling.stats(alias).opened == 1


@pytest.mark.only("pymysql", "psycopg")
def test_a_changed_session_is_not_reset_by_other_settings_than_its_own() -> None:
    change = "SET @mine = 1" if MYSQL else "SET my.own = '1'"
    with another_alias() as alias:
        request_started()
        sql(change, using=alias)
        with changed(alias, CONN_MAX_AGE=17):
            connections[alias].close()
            assert pooling.stats(alias).resets == 0
            assert pooling.stats(alias).idle == 0
        request_finished()


def test_an_option_changed_in_place_is_never_met_by_what_was_opened_without_it() -> None:
    change = {
        "mysql": "SET @@lock_wait_timeout = 111",
        "postgresql": "-c lock_timeout=111",
        "sqlite": "PRAGMA cache_size = -111",
    }[connection.vendor]
    key = "options" if POSTGRESQL else "init_command"
    look = {
        "mysql": "SELECT @@lock_wait_timeout",
        "postgresql": "SHOW lock_timeout",
        "sqlite": "PRAGMA cache_size",
    }[connection.vendor]
    with another_alias() as alias:
        before = sql(look, using=alias)
        connections[alias].close()
        connections[alias].settings_dict.setdefault("OPTIONS", {})[key] = change
        assert "111" in str(sql(look, using=alias)[0][0])
        connections[alias].close()
        del connections[alias].settings_dict["OPTIONS"][key]
        assert sql(look, using=alias) == before


def test_an_alias_that_is_given_other_settings_is_not_reached_with_the_old_ones(second_database: str) -> None:
    """Wrappers of threads that have ended serve the next ones."""
    with another_alias() as alias:
        first = in_thread(lambda: database_in_use(alias))
        connections.settings[alias] = connections.settings[alias] | {"NAME": second_database}
        assert in_thread(lambda: database_in_use(alias)) == os.path.basename(second_database) != first
        eventually(lambda: pooling.stats(alias).in_use == 0)
        pooling.close_all(alias)


def test_another_handler_of_connections_has_its_own_settings(second_database: str) -> None:
    with another_alias() as alias:
        first = in_thread(lambda: database_in_use(alias))
        settings = connections.settings[alias] | {"NAME": second_database}
        handler = ConnectionHandler({"default": {}, alias: settings})
        names: list[str] = []

        def look() -> None:
            wrapper = handler[alias]
            names.append(wrapper.settings_dict["NAME"])
            wrapper.ensure_connection()
            wrapper.close()

        in_thread(look)
        assert names == [second_database] != [first]
        pooling.close_all(alias)


@pytest.mark.parametrize("key", ["OPTIONS", "TIME_ZONE", "CONN_HEALTH_CHECKS"])
def test_a_setting_changed_in_place_closes_what_is_idle_at_once(key: str, observer: Observer) -> None:
    options = {"timeout": 7} if DRIVER == "sqlite3" else {"connect_timeout": 7}
    value = {"OPTIONS": options, "TIME_ZONE": "Europe/Paris", "CONN_HEALTH_CHECKS": True}[key]
    with another_alias() as alias:
        with held(3, alias):
            pass
        eventually(lambda: pooling.stats(alias).idle == 3)
        opened = pooling.stats(alias).opened
        with changed(alias, **{key: value}):
            in_thread(lambda: token(alias))
            assert pooling.stats(alias).opened - opened == 1
            eventually(lambda: observer.count() == 1)
            eventually(lambda: pooling.stats(alias).idle == 1)
            assert_whole(alias)


def test_settings_changed_back_close_what_was_opened_in_between_at_once(observer: Observer) -> None:
    """A test database's NAME and back: what was opened in between must not stay for long."""
    with another_alias() as alias:
        in_thread(lambda: one(alias))
        eventually(lambda: pooling.stats(alias).idle == 1)
        with changed(alias, CONN_HEALTH_CHECKS=True):
            with held(3, alias):
                pass
            eventually(lambda: pooling.stats(alias).idle == 3)
        in_thread(lambda: token(alias))
        assert pooling.stats(alias).idle + pooling.stats(alias).in_use == 1
        assert_whole(alias)


@pytest.mark.only("pymysql", "mysqlclient", "psycopg", "psycopg2")
def test_a_rotated_password_closes_what_was_opened_with_the_old_one(observer: Observer) -> None:
    with another_alias() as alias:
        one(alias)
        connections[alias].close()
        eventually(lambda: observer.count() == 1)
        with changed(alias, PASSWORD=SECRET):
            with pytest.raises(Exception, match="(?i)denied|authentication"):
                in_thread(lambda: one(alias))
            eventually(lambda: observer.count() == 0)
            assert pooling.stats(alias).idle == 0
        in_thread(lambda: token(alias))
        assert_whole(alias)


@pytest.mark.only("psycopg", "psycopg2", "pymysql", "mysqlclient")
def test_overridden_time_zones_have_connections_of_their_own() -> None:
    """The session's time zone is set when connecting: PostgreSQL's, and MySQL's only by its user."""

    def zone() -> str:
        if POSTGRESQL:
            return str(sql("SELECT current_setting('TimeZone')")[0][0])
        return str(connection.timezone_name)

    one()
    connection.close()
    before = in_thread(zone)
    with override_settings(USE_TZ=False, TIME_ZONE="Europe/Paris"):
        assert in_thread(zone) == "Europe/Paris"
        assert zone() == "Europe/Paris"
        connection.close()
    assert in_thread(zone) == before
    assert zone() == before


def test_no_password_in_anything_that_can_be_printed() -> None:
    password = SECRET if DRIVER == "sqlite3" else connections.settings["default"]["PASSWORD"]
    assert password
    with another_alias(PASSWORD=password, POOL={"SIZE": 1, "MAX_OUTSTANDING": 1, "TIMEOUT": 0.05}) as alias:
        pooling.set_pool_size(1, max_outstanding=1, timeout=0.05, alias=alias)
        with held(1, alias), pytest.raises(PoolTimeout) as caught:
            one(alias)
        for pool in registry.pools():
            for told in (repr(pool), str(pool), repr(pool.identities), *map(str, pool.identities)):
                assert password not in told
        for told in (str(caught.value), repr(caught.value), repr(pooling.stats()), repr(connections[alias])):
            assert password not in told


def test_what_an_identity_is_told_by_has_no_password_and_nothing_that_a_terminal_obeys() -> None:
    with another_alias(NAME=f"mysql://a:{SECRET}@db", HOST="h\x1b") as alias:
        told = repr(find_identity(connections[alias]))
    assert told == r"<Identity of 'mysql://***@db' at 'h\x1b'>"


# -- test databases ----------------------------------------------------------------------------------


# Without a warning: serialize has gone in Django 6.0, where nothing is.
SERIALIZE = {} if django.VERSION >= (6, 0) else {"serialize": False}


@pytest.fixture
def test_name(tmp_path: Path) -> Iterator[str]:
    """Where Django will create the test database of "default"."""
    settings_dict = connections.settings["default"]
    name = str(tmp_path / "created") if DRIVER == "sqlite3" else f"test_{settings_dict['NAME']}"
    before = settings_dict["NAME"], settings_dict["TEST"]["NAME"]
    settings_dict["TEST"]["NAME"] = name
    yield name
    settings_dict["NAME"], settings_dict["TEST"]["NAME"] = before


def test_a_test_database_is_created_and_destroyed_with_idle_connections_around(
    test_name: str, observer: Observer
) -> None:
    """PostgreSQL refuses both while anybody is connected to the template or to the database."""
    Note.objects.create(text="real")
    real = connections.settings["default"]["NAME"]
    with held(3):
        pass
    request_finished()
    for _ in range(2):
        connection.creation.create_test_db(verbosity=0, autoclobber=True, **SERIALIZE)
        try:
            assert connections.settings["default"]["NAME"] == test_name
            assert Note.objects.count() == 0

            def add() -> None:
                assert database_in_use("default") == os.path.basename(test_name)
                Note.objects.create(text="test")

            if DRIVER == "sqlite3":
                for _ in range(4):
                    in_thread(add)
            else:
                in_threads([add] * 4)
            assert Note.objects.count() == 4
            with plain(NAME=real) as wrapper, wrapper.cursor() as cursor:
                cursor.execute("SELECT text FROM behaviour_note")
                assert list(cursor.fetchall()) == [("real",)]
            request_finished()
        finally:
            connection.creation.destroy_test_db(real, verbosity=0)
        assert committed() == ["real"]
        assert [note.text for note in Note.objects.all()] == ["real"]
        connection.close()
    assert_whole()


def test_a_test_database_is_cloned_with_idle_connections_around(test_name: str) -> None:
    """``--parallel``: each process works on a clone; PostgreSQL copies only what nobody is connected to."""
    real = connections.settings["default"]["NAME"]
    connection.creation.create_test_db(verbosity=0, autoclobber=True, **SERIALIZE)
    try:
        Note.objects.create(text="cloned")
        with held(2):
            pass
        connection.close()
        for suffix in ("1", "2"):
            connection.creation.clone_test_db(suffix=suffix, verbosity=0, autoclobber=True)
        clone = connection.creation.get_test_db_clone_settings("1")["NAME"]
        with changed("default", NAME=clone):
            assert in_thread(lambda: [note.text for note in Note.objects.all()]) == ["cloned"]
            in_thread(lambda: Note.objects.create(text="in the clone"))
        assert in_thread(lambda: Note.objects.count()) == 1
        for suffix in ("1", "2"):
            connection.creation.destroy_test_db(suffix=suffix, verbosity=0)
    finally:
        connection.creation.destroy_test_db(real, verbosity=0)
    assert_whole()
