"""Who may see the page and who may act, also while the database is not available to check the login.

Whoever may use the admin may see the page. Each time the database confirms that, the response sets a signed
cookie. While the database is not available (the pool is exhausted, for example), the page can be seen with
that cookie for another ten minutes, together with the session's cookie, of which it contains a digest:
logging out makes it invalid. Who was allowed to act may then end a pause, in which nobody can be asked.
Who has no such cookie while the pool is exhausted is asked for with a connection outside of it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.contrib.auth.views import redirect_to_login
from django.contrib.sessions.backends.base import SessionBase
from django.core import signing
from django.db import InterfaceError, OperationalError
from django.db.transaction import TransactionManagementError
from django.http import HttpRequest, HttpResponse, HttpResponseForbidden
from django.http.response import HttpResponseBase
from django.template.loader import render_to_string
from django.urls import NoReverseMatch, reverse
from django.utils.crypto import constant_time_compare, salted_hmac

from django_db_pooling import owner, pooling
from django_db_pooling.dashboard import outside
from django_db_pooling.exceptions import PoolTimeout
from django_db_pooling.workers import overview

if TYPE_CHECKING:
    from django.contrib.admin import AdminSite

# Of models.ConnectionPool; granted in the admin.
PERMISSION = "django_db_pooling.change_pools"
COOKIE = "django_db_pooling_staff"
# Seconds for which the cookie is valid.
COOKIE_AGE = 600
# Seconds to wait for a connection to check the login with.
MAX_WAIT = 1.0
# Seconds after which the page is tried again.
RETRY = 5
NOT_CHECKED = "Your login could not be checked, because the database is not available."
UNAVAILABLE = "The database is not available."
_SALT = "django_db_pooling.dashboard"


@dataclass(frozen=True, slots=True)
class Visitor:
    """A user who may see the page. ``seen``: seconds since the login was last checked; None: just now."""

    name: str
    may_act: bool
    may_resume: bool
    seen: float | None = None


def visitor(request: HttpRequest, site: AdminSite | None, redirects: bool) -> Visitor | HttpResponse:
    """The user, or the response to one who may not see the page.

    ``site``: the admin site that the page belongs to, if any. ``redirects``: whether to
    redirect to the login.
    """
    question = partial(_authenticated, request, site, redirects)
    try:
        with owner.max_wait(MAX_WAIT):
            found = question()
    except (OperationalError, InterfaceError) as error:
        known = _remembered(request)
        if known is None and isinstance(error, PoolTimeout):
            return _asked_outside(request, error.alias, question, redirects)
        avoid_further_queries(request)
        return known or _not_checked(request, error, redirects)
    # Otherwise the page would show its own request as the holder of a connection.
    with contextlib.suppress(TransactionManagementError):
        pooling.release()
    return found


def _asked_outside(
    request: HttpRequest, alias: str, question: Callable[[], Visitor | HttpResponse], redirects: bool
) -> Visitor | HttpResponse:
    try:
        with owner.max_wait(0.0):
            found = outside.ask(alias, question)
    except (OperationalError, InterfaceError) as error:
        avoid_further_queries(request)
        return _not_checked(request, error, redirects)
    keep_session_as_it_is(request)
    return found


def _not_checked(request: HttpRequest, error: Exception, is_page: bool) -> HttpResponse:
    return unavailable(request, error) if is_page else answer(NOT_CHECKED, 503)


def _authenticated(request: HttpRequest, site: AdminSite | None, redirects: bool) -> Visitor | HttpResponse:
    user: Any = request.user
    if _is_staff(request, site):
        may_act = user.has_perm(PERMISSION)
        return Visitor(user.get_username(), may_act, may_resume=may_act)
    if user.is_authenticated:
        return answer("This page is for staff.", 403)
    if not redirects:
        return answer("You are not logged in.", 403)
    url = admin_url(request, "login")
    if url is not None and callers_wait():
        url = reverse(f"{namespace(request)}:login")
    response: HttpResponse = redirect_to_login(request.get_full_path(), url)
    return response


def callers_wait() -> bool:
    """In any process of the site (reads files)."""
    return any(pool.total.waiting for pool in overview.look().pools)


def _is_staff(request: HttpRequest, site: AdminSite | None) -> bool:
    if site is None and apps.is_installed("django.contrib.admin"):
        from django.contrib import admin

        site = admin.site
    if site is not None:
        # A project may have made it stricter.
        return site.has_permission(request)
    user: Any = request.user
    return bool(user.is_active and user.is_staff)


def namespace(request: HttpRequest) -> str:
    """Of the page's URLs, which a project and each admin site may include."""
    assert request.resolver_match is not None
    return request.resolver_match.namespace


def admin_url(request: HttpRequest, name: str) -> str | None:
    """A page of the admin: of the site of this request, or else of any."""
    try:
        return reverse(f"admin:{name}", current_app=namespace(request))
    except NoReverseMatch:
        return None


def answer(text: str, status: int) -> HttpResponse:
    if status == 403:
        return HttpResponseForbidden(f"{text}\n", content_type="text/plain; charset=utf-8")
    headers = {"Retry-After": str(RETRY)}
    return HttpResponse(f"{text}\n", content_type="text/plain; charset=utf-8", status=status, headers=headers)


def unavailable(request: HttpRequest, error: Exception) -> HttpResponse:
    """For people: why, what else there is, and again in some seconds."""
    reason = str(error) if isinstance(error, outside.Unavailable) else UNAVAILABLE
    context = {"reason": reason, "seconds": str(RETRY), "index": index_url(request)}
    text = render_to_string("django_db_pooling/unavailable.html", context)
    return HttpResponse(text, status=503, headers={"Retry-After": str(RETRY)})


class _NotLoaded(SessionBase):
    """Replaces a session that could not be loaded, so that nothing loads or saves it later."""

    def __init__(self, session_key: str | None) -> None:
        super().__init__(session_key)
        self._session_cache: dict[str, Any] = {}

    def is_empty(self) -> bool:
        # The cookie of an empty session would be deleted.
        return False

    def save(self, must_create: bool = False) -> None:
        pass


def keep_session_as_it_is(request: HttpRequest) -> None:
    """Its middleware would wait for a connection to save it. It sets the cookie all the same."""
    if hasattr(request, "session"):
        request.session.save = _do_nothing  # type: ignore[method-assign]


def _do_nothing(must_create: bool = False) -> None:
    pass


def avoid_further_queries(request: HttpRequest) -> None:
    request.user = AnonymousUser()
    if hasattr(request, "session"):
        request.session = _NotLoaded(request.COOKIES.get(settings.SESSION_COOKIE_NAME))


# -- the cookie ----------------------------------------------------------------------------------------


def remember(request: HttpRequest, response: HttpResponseBase, who: Visitor) -> None:
    """Set the cookie: the database has just confirmed that this user may see the page."""
    session = _session_digest(request)
    if session is None:
        return
    response.set_cookie(
        COOKIE,
        signing.dumps({"name": who.name, "session": session, "resumes": who.may_resume}, salt=_SALT),
        max_age=COOKIE_AGE,
        path=index_url(request),
        secure=request.is_secure(),
        httponly=True,
        samesite="Strict",
    )


def forget(request: HttpRequest, response: HttpResponseBase) -> None:
    """Delete the cookie: this user may not see the page."""
    if COOKIE in request.COOKIES and response.status_code != 503:
        response.delete_cookie(COOKIE, path=index_url(request), samesite="Strict")


def index_url(request: HttpRequest) -> str:
    return reverse(f"{namespace(request)}:index")


def _remembered(request: HttpRequest) -> Visitor | None:
    session = _session_digest(request)
    cookie = request.COOKIES.get(COOKIE)
    if session is None or cookie is None:
        return None
    try:
        known = signing.loads(cookie, salt=_SALT, max_age=COOKIE_AGE)
        at = signing.b62_decode(cookie.rsplit(":", 2)[1])
    except signing.BadSignature:
        return None
    if not constant_time_compare(known["session"], session):
        return None
    may_resume = known.get("resumes") is True
    return Visitor(known["name"], may_act=False, may_resume=may_resume, seen=max(0.0, time.time() - at))


def _session_digest(request: HttpRequest) -> str | None:
    key = request.COOKIES.get(settings.SESSION_COOKIE_NAME)
    # With the page's path, since another admin site may be stricter.
    return salted_hmac(f"{_SALT} {index_url(request)}", key, algorithm="sha256").hexdigest() if key else None
