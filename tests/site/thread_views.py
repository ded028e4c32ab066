"""Views that let threads of their own query; ``t`` is the client's token."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from threading import Barrier

from django.http import HttpRequest, HttpResponse

from tests.site.views import tokens

AT_ONCE = 3

_threads_that_stay = ThreadPoolExecutor(6)


def of_view(request: HttpRequest) -> HttpResponse:
    """They end with the request, and each has one query."""
    all_have_begun = Barrier(AT_ONCE)

    def query(token: str) -> set[str]:
        all_have_begun.wait()
        return tokens(token)

    with ThreadPoolExecutor(AT_ONCE) as executor:
        return _answer(executor, query, request.GET["t"])


def that_stay(request: HttpRequest) -> HttpResponse:
    """They are shared by all requests and never end."""
    return _answer(_threads_that_stay, tokens, request.GET["t"])


def _answer(executor: Executor, query: Callable[[str], set[str]], token: str) -> HttpResponse:
    """The token, if each of several queries has been answered with what belongs to it."""
    mine = [f"{token} {number}" for number in range(AT_ONCE)]
    answers = list(executor.map(query, mine))
    assert answers == [{one} for one in mine], answers
    return HttpResponse(token)
