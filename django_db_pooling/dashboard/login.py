"""The admin's login for who is to see the page while callers wait for connections.

At an address of the page's, since the admin's own would wait in the pool's line. At all other times it leads
to the admin's own.
"""

from __future__ import annotations

from functools import partial
from typing import Any
from urllib.parse import urlsplit

from django.contrib.auth.views import redirect_to_login
from django.db import InterfaceError, OperationalError, transaction
from django.http import HttpRequest, HttpResponse
from django.urls import Resolver404, ResolverMatch, get_script_prefix, resolve
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from django_db_pooling import owner
from django_db_pooling.dashboard import access, outside, views
from django_db_pooling.exceptions import PoolTimeout


def _login(request: HttpRequest, site: object = None) -> HttpResponse:
    """``site``: of the admin."""
    admins = access.admin_url(request, "login")
    found = _view_at(admins)
    if found is None or not access.callers_wait():
        sent: HttpResponse = redirect_to_login(access.index_url(request), admins)
        return sent
    try:
        return _answered(request, found)
    except (OperationalError, InterfaceError) as error:
        access.avoid_further_queries(request)
        return views.with_security_headers(access.unavailable(request, error))


def _view_at(url: str | None) -> ResolverMatch | None:
    if url is None:
        return None
    try:
        return resolve("/" + urlsplit(url).path.removeprefix(get_script_prefix()))
    except Resolver404:
        return None


def _answered(request: HttpRequest, found: ResolverMatch) -> HttpResponse:
    try:
        with owner.max_wait(access.MAX_WAIT):
            return _rendered(request, found)
    except PoolTimeout as timeout:
        alias = timeout.alias
    with owner.max_wait(0.0):
        return outside.ask(alias, partial(_saved, request, found))


def _rendered(request: HttpRequest, found: ResolverMatch) -> HttpResponse:
    response: Any = found.func(request, *found.args, **found.kwargs)
    if not getattr(response, "is_rendered", True):
        response.render()
    return response  # type: ignore[no-any-return]


def _saved(request: HttpRequest, found: ResolverMatch) -> HttpResponse:
    """With the session, which its middleware would save later, and wait for a connection."""
    response = _rendered(request, found)
    if request.session.modified:
        request.session.save()
    access.keep_session_as_it_is(request)
    return response


login: Any = never_cache(
    transaction.non_atomic_requests(require_http_methods(["GET", "HEAD", "POST"])(_login))
)
# Django's LoginRequiredMiddleware would load the user.
login.login_required = False
