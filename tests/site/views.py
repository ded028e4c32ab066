"""One way of using a connection for each view. Parameters ``s`` are seconds."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator

from django.db import Error, connection, transaction
from django.db.models import F
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse

from django_db_pooling import pooling
from tests.site.models import Row

SLEEP = {"mysql": "SLEEP(%s)", "postgresql": "pg_sleep(%s)"}
CONNECTION_ID = {"mysql": "CONNECTION_ID()", "postgresql": "pg_backend_pid()"}
TLS_VERSION = {
    "mysql": "SHOW STATUS LIKE 'Ssl_version'",
    "postgresql": "SELECT pid, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
}
STATEMENTS = 3


def one(request: HttpRequest) -> HttpResponse:
    """One query."""
    return HttpResponse(Row.objects.get(pk=1).text)


def token(request: HttpRequest) -> HttpResponse:
    """All the different tokens in what the database answered to this request: its own, if all is well.

    The server takes its time over each row, so that other requests' statements come in between.
    """
    return HttpResponse(" ".join(sorted(tokens(request.GET["t"], STATEMENTS))))


def tls(request: HttpRequest) -> HttpResponse:
    """The version of TLS that this connection speaks; nothing where it speaks none."""
    with connection.cursor() as cursor:
        cursor.execute(TLS_VERSION[connection.vendor])
        return HttpResponse(cursor.fetchone()[1])


def sleep(request: HttpRequest) -> HttpResponse:
    """One statement that takes the server a while."""
    sleep_in_database(float(request.GET["s"]))
    return HttpResponse("slept")


def atomic(request: HttpRequest) -> HttpResponse:
    """A transaction: add to a counter and read it."""
    with transaction.atomic():
        Row.objects.filter(pk=2).update(counter=F("counter") + 1)
        return HttpResponse(str(Row.objects.get(pk=2).counter))


def hold(request: HttpRequest) -> HttpResponse:
    """A query, then work elsewhere; the answer is the server's number of the connection.

    ``pin``: keep it meanwhile whatever the scope is.
    """
    if "pin" in request.GET:
        connection.ensure_connection()
    number = connection_number()
    time.sleep(float(request.GET["s"]))
    return HttpResponse(str(number))


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """A page for errors that queries, as one with the visitor's name does: the connection's number."""
    return HttpResponse(str(connection_number()), status=404)


def nothing(request: HttpRequest) -> HttpResponse:
    """No query."""
    return HttpResponse("nothing")


def stream(request: HttpRequest) -> StreamingHttpResponse:
    """A long answer that is made while it is sent, ``s`` seconds apart."""

    def parts() -> Iterator[str]:
        for row in Row.objects.all():
            yield row.text * 1000
            time.sleep(float(request.GET["s"]))

    return StreamingHttpResponse(parts())


def spawn(request: HttpRequest) -> HttpResponse:
    """A query in another greenlet than the request's."""
    import gevent

    return HttpResponse(gevent.spawn(lambda: Row.objects.get(pk=1).text).get())


def die(request: HttpRequest) -> HttpResponse:
    """End in the middle of a statement by what no ``except Exception`` sees; request_finished is never sent.

    ``how``: "timeout", "kill", "atomic" for a timeout in a transaction, or "between" for a kill while the
    database has nothing to do.
    """
    import gevent

    how = request.GET["how"]
    seconds = float(request.GET["s"])
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    if how in ("kill", "between"):
        gevent.spawn_later(seconds, gevent.getcurrent().kill, block=False)
    else:
        gevent.Timeout.start_new(seconds)
    if how == "between":
        time.sleep(seconds * 5)
    elif how == "atomic":
        with transaction.atomic():
            Row.objects.filter(pk=3).update(counter=F("counter") + 1)
            sleep_in_database(seconds * 5)
    else:
        sleep_in_database(seconds * 5)
    return HttpResponse("survived")


def pool(request: HttpRequest) -> JsonResponse:
    """The process, and what its pools count."""
    pools = {alias: dataclasses.asdict(stats) for alias, stats in pooling.stats().items()}
    return JsonResponse({"pid": os.getpid(), "pools": pools})


def warm(request: HttpRequest) -> HttpResponse:
    """For a readiness probe: yes, once connections are open."""
    try:
        pooling.warm_up(timeout=2)
    except Error as error:
        return HttpResponse(type(error).__name__, status=503)
    return HttpResponse("yes")


def connection_number() -> int:
    """The server's number of this thread's or greenlet's connection."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {CONNECTION_ID[connection.vendor]}")
        return int(cursor.fetchone()[0])


def tokens(token: str, statements: int = 1) -> set[str]:
    """What comes back where only this token should."""
    seen: set[str] = set()
    for _ in range(statements):
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT %s, {SLEEP[connection.vendor]} FROM site_row", [token, 0.002])
            seen |= {row[0] for row in cursor.fetchall()}
    return seen


def sleep_in_database(seconds: float) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {SLEEP[connection.vendor]}", [seconds])
