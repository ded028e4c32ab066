"""The measured views. Every answer has the tokens of the rows that ``id`` stands for."""

from __future__ import annotations

import time

from django.http import HttpRequest, HttpResponse

from benchmarks.rows import partner
from benchmarks.site import readers
from benchmarks.site.settings import SIZE, VARIANT
from benchmarks.site.ticker import Ticker

ELSEWHERE_SECONDS = 0.1

reader = getattr(readers, VARIANT.reader)(SIZE)
ticker = Ticker()


def nothing(request: HttpRequest) -> HttpResponse:
    """No query: to see whether the site is there."""
    return HttpResponse("nothing")


def one(request: HttpRequest) -> HttpResponse:
    """One query."""
    return HttpResponse(reader.read(int(request.GET["id"])))


def mixed(request: HttpRequest) -> HttpResponse:
    """Two queries, and something slow between them that doesn't use the database."""
    key = int(request.GET["id"])
    first = reader.read(key)
    time.sleep(ELSEWHERE_SECONDS)
    return HttpResponse(f"{first} {reader.read(partner(key))}")


def user(request: HttpRequest) -> HttpResponse:
    """A person's entry in a directory, and then something slow that doesn't use the directory."""
    name = reader.read(int(request.GET["id"]))
    time.sleep(ELSEWHERE_SECONDS)
    return HttpResponse(name)


def gap(request: HttpRequest) -> HttpResponse:
    """For how long, at worst, no greenlet could run since the last call; in seconds."""
    return HttpResponse(f"{ticker.longest_gap():.6f}")


def wait(request: HttpRequest) -> HttpResponse:
    """The seconds to get a connection, and then one query."""
    began = time.perf_counter()
    with reader.connection() as read:
        waited = time.perf_counter() - began
        text = read(int(request.GET["id"]))
    return HttpResponse(text, headers={"X-Waited": f"{waited:.6f}"})
