from __future__ import annotations

import io
from typing import Any

from django.db import connection, models, transaction
from django.db.backends.postgresql.psycopg_any import is_psycopg3, sql
from django.http import HttpRequest, HttpResponse
from django.urls import path

from tests.neighbours.site import in_threads, visit_all


class Item(models.Model):
    name = models.CharField(max_length=50)


TABLE, NAME = sql.Identifier("probes_item"), sql.Identifier("name")
INSERT = sql.SQL("INSERT INTO {} ({}) VALUES ({})")
SELECT = sql.SQL("SELECT {} FROM {} WHERE {} LIKE {} ORDER BY id").format(
    NAME, TABLE, NAME, sql.Placeholder()
)


def write(request: HttpRequest) -> HttpResponse:
    name = request.GET["name"]
    with connection.cursor() as cursor:
        cursor.execute(INSERT.format(TABLE, NAME, sql.Literal(name)))
        cursor.execute(INSERT.format(TABLE, NAME, sql.Placeholder()), [f"{name}!"])
        cursor.executemany(INSERT.format(TABLE, NAME, sql.Placeholder()), [[f"{name}?"], [f"{name}?"]])
        cursor.execute(SELECT, [f"{name}_"])
        return HttpResponse(str(cursor.fetchall()))


def in_a_block(request: HttpRequest) -> HttpResponse:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(SELECT, [f"{request.GET['name']}_"])
        return HttpResponse(str(list(cursor)))


def as_bytes(request: HttpRequest) -> HttpResponse:
    with connection.cursor() as cursor:
        cursor.execute(b"SELECT count(*) FROM probes_item WHERE name = %s", [request.GET["name"]])
        return HttpResponse(str(cursor.fetchone()))


def sets(request: HttpRequest) -> HttpResponse:
    """A change of the session, composed: the next visitor must not have it."""
    with connection.cursor() as cursor:
        cursor.execute("SHOW application_name")
        before = cursor.fetchone()
        cursor.execute(sql.SQL("SET application_name TO {}").format(sql.Literal(request.GET["name"])))
        cursor.execute("SHOW application_name")
        return HttpResponse(str([before, cursor.fetchone()]))


def copy(request: HttpRequest) -> HttpResponse:
    name = request.GET["name"]
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(TABLE, NAME)
    with transaction.atomic(), connection.cursor() as cursor:
        if is_psycopg3:
            with cursor.copy(statement) as out:
                for number in range(3):
                    out.write_row([f"copied {name} {number}"])
        else:
            rows = "".join(f"copied {name} {number}\n" for number in range(3))
            cursor.copy_expert(statement, io.StringIO(rows))
    return HttpResponse(str(Item.objects.filter(name__startswith=f"copied {name} ").count()))


def drivers_cursor(request: HttpRequest) -> HttpResponse:
    """The driver's own cursor, whose wrapper nobody refers to."""
    raw = connection.cursor().cursor
    raw.execute("SELECT 1 UNION SELECT 2 ORDER BY 1")
    return HttpResponse(str(raw.fetchall()))


def dicts(request: HttpRequest) -> HttpResponse:
    """Rows as dictionaries, by a cursor of the driver's connection."""
    connection.ensure_connection()
    if is_psycopg3:
        from psycopg.rows import dict_row

        raw = connection.connection.cursor(row_factory=dict_row)
    else:
        from psycopg2.extras import RealDictCursor

        raw = connection.connection.cursor(cursor_factory=RealDictCursor)
    with raw:
        raw.execute("SELECT 1 AS a")
        return HttpResponse(str(dict(raw.fetchone())))


def values(request: HttpRequest) -> HttpResponse:
    """Many rows at once: psycopg2's execute_values wants the driver's cursor."""
    name = request.GET["name"]
    with connection.cursor() as cursor:
        if is_psycopg3:
            cursor.executemany("INSERT INTO probes_item (name) VALUES (%s)", [[f"v{name}"]] * 3)
        else:
            from psycopg2.extras import execute_values

            execute_values(cursor.cursor, "INSERT INTO probes_item (name) VALUES %s", [[f"v{name}"]] * 3)
    return HttpResponse(str(Item.objects.filter(name=f"v{name}").count()))


VIEWS = (write, in_a_block, as_bytes, sets, copy, drivers_cursor, dicts, values)
urlpatterns = [path(view.__name__, view) for view in VIEWS]


def _visit(view: Any, times: int = 12) -> Any:
    return visit_all([f"/{view.__name__}?name=a{number}z" for number in range(times)])


def probe_composed_statements() -> Any:
    return _visit(write), Item.objects.count(), _visit(in_a_block)


def probe_bytes() -> Any:
    return _visit(as_bytes)


def probe_a_composed_change_of_the_session() -> Any:
    return _visit(sets, 24)


def probe_copy() -> Any:
    return _visit(copy)


def probe_the_drivers_cursors() -> Any:
    return _visit(drivers_cursor), _visit(dicts), _visit(values)


def probe_outside_of_requests() -> Any:
    def work(number: int) -> Any:
        with connection.cursor() as cursor:
            cursor.execute(INSERT.format(TABLE, NAME, sql.Literal(f"job {number}")))
            cursor.execute(SELECT, [f"job {number}"])
            return cursor.fetchall()

    def raw() -> Any:
        cursor = connection.cursor().cursor
        cursor.execute("SELECT 1 UNION SELECT 2 ORDER BY 1")
        return cursor.fetchall()

    return in_threads([lambda number=number: work(number) for number in range(12)] + [raw] * 6)
