"""Views for tests with faults. Parameters: ``t`` is the client's token, ``s`` are seconds.

Where the answer is the token, all that was read is what belongs to this request.
"""

from __future__ import annotations

import random
import time

from django.db import IntegrityError, connection, connections, transaction
from django.http import HttpRequest, HttpResponse

from django_db_pooling import pooling
from django_db_pooling.workers import commands
from django_db_pooling.workers.commands import Action
from tests.site import ON_PURPOSE
from tests.site.models import Mark, Row
from tests.site.views import connection_number, sleep_in_database, tokens

READ_TAG = {"mysql": "SELECT @tag", "postgresql": "SELECT current_setting('site.tag', true)"}
SET_TAG = {"mysql": "SET @tag = %s", "postgresql": "SELECT set_config('site.tag', %s, false)"}


def _answer(seen: set[str]) -> HttpResponse:
    return HttpResponse(" ".join(sorted(seen)))


def _mark(token: str) -> None:
    for part in (1, 2):
        Mark.objects.create(token=token, part=part)


def _marks(token: str) -> int:
    return Mark.objects.filter(token=token).count()


def _spin(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def spin(request: HttpRequest) -> HttpResponse:
    """Hold a connection and the processor: under gevent nobody else's turn comes."""
    Row.objects.get(pk=1)
    _spin(float(request.GET["s"]))
    return HttpResponse("dizzy")


def occupy(request: HttpRequest) -> HttpResponse:
    """Hold a connection in any scope; the answer is the server's number of it."""
    with transaction.atomic():
        number = connection_number()
        time.sleep(float(request.GET["s"]))
    return HttpResponse(str(number))


def nested(request: HttpRequest) -> HttpResponse:
    """Transactions on two databases, one inside of the other; ``first`` names the outer one."""
    first = request.GET["first"]
    second = "second" if first == "default" else "default"
    with transaction.atomic(first), transaction.atomic(second):
        for alias in (first, second):
            with connections[alias].cursor() as cursor:
                cursor.execute("SELECT 1")
            time.sleep(0.1)
    return HttpResponse("both")


def in_transaction(request: HttpRequest) -> HttpResponse:
    """All that a transaction has written is there afterwards, and all of it is its own.

    ``s`` and ``spin``: seconds that it takes, without and with the processor.
    """
    token = request.GET["t"]
    with transaction.atomic():
        Mark.objects.create(token=token, part=1)
        time.sleep(float(request.GET.get("s", 0)))
        _spin(float(request.GET.get("spin", 0)))
        seen = tokens(token)
        Mark.objects.create(token=token, part=2)
    if _marks(token) != 2:
        seen.add("what was committed is not there")
    return _answer(seen)


def mixed(request: HttpRequest) -> HttpResponse:
    """A query, a transaction with a savepoint that fails, rows one by one, a query."""
    token = request.GET["t"]
    seen = tokens(token)
    with transaction.atomic():
        try:
            with transaction.atomic():
                _mark(f"{token}-undone")
                Row.objects.create(pk=1, text="is there already")
        except IntegrityError:
            seen |= tokens(token)
        _mark(f"{token}-kept")
    if (_marks(f"{token}-undone"), _marks(f"{token}-kept")) != (0, 2):
        seen.add("not what was committed")
    seen |= {row.text for row in Row.objects.iterator(chunk_size=7) if row.text != f"row {row.pk}"}
    return _answer(seen | tokens(token))


def error(request: HttpRequest) -> HttpResponse:
    """Fail in the middle of a transaction, of SQL or of Python."""
    token = request.GET["t"]
    with transaction.atomic():
        Mark.objects.create(token=token, part=1)
        if (seen := tokens(token)) != {token}:
            return _answer(seen)
        if random.random() < 0.5:
            Row.objects.create(pk=1, text="is there already")
        raise RuntimeError(ON_PURPOSE)


def interrupted(request: HttpRequest) -> HttpResponse:
    """A transaction that runs out of time anywhere, and then a query."""
    import gevent

    token = request.GET["t"]
    with gevent.Timeout(random.uniform(0.001, 0.1), False), transaction.atomic():
        Mark.objects.create(token=token, part=1)
        sleep_in_database(0.05)
        Mark.objects.create(token=token, part=2)
    return _answer(tokens(token))


def left_open(request: HttpRequest) -> HttpResponse:
    """A transaction that is never ended: nothing of it stays."""
    token = request.GET["t"]
    transaction.set_autocommit(False)
    Mark.objects.create(token=token, part=1)
    return _answer(tokens(token))


def session(request: HttpRequest) -> HttpResponse:
    """Change the session, which must be as new."""
    token = request.GET["t"]
    with connection.cursor() as cursor:
        cursor.execute(READ_TAG[connection.vendor])
        [found] = cursor.fetchone()
        cursor.execute(SET_TAG[connection.vendor], [token])
        seen = tokens(token)
        cursor.execute(READ_TAG[connection.vendor])
        [set_by_us] = cursor.fetchone()
    return _answer(seen | {set_by_us} | ({found} if found else set()))


def recycle(request: HttpRequest) -> HttpResponse:
    """Replace all connections."""
    pooling.recycle()
    return HttpResponse("recycled")


def order(request: HttpRequest) -> HttpResponse:
    """The same in all processes of the site."""
    commands.give("default", Action.RECYCLE, "somebody")
    return HttpResponse("ordered")


def resize(request: HttpRequest) -> HttpResponse:
    """Another size, ``n``, which is the most connections, too."""
    most = int(request.GET["n"])
    pooling.set_pool_size(most, max_outstanding=most)
    return HttpResponse("resized")
