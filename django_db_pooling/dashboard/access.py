"""Who may look and who may act, also while the database can't be asked who somebody is.

Whoever may use the admin may look. Each time the database says so, the answer carries a signed cookie. When
it can't be asked, the pool being exhausted for example, that cookie is good for looking for another ten
minutes, together with the session's own cookie, of which it knows a digest: who logs out takes both away.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
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
from django.urls import NoReverseMatch, reverse
from django.utils.crypto import constant_time_compare, salted_hmac

from django_db_pooling import owner, pooling

if TYPE_CHECKING:
    from django.contrib.admin import AdminSite

# Of models.ConnectionPool; to be granted in the admin.
PERMISSION = "django_db_pooling.change_pools"
COOKIE = "django_db_pooling_staff"
# Seconds that the cookie is good for.
REMEMBERED = 600
# Most seconds that a visitor waits for a connection.
PATIENCE = 1.0
_SALT = "django_db_pooling.dashboard"


@dataclass(frozen=True, slots=True)
class Visitor:
    """Somebody who may look. ``seen``: seconds since the database was asked last; None: just now."""

    name: str
    may_act: bool
    seen: float | None = None


def visitor(request: HttpRequest, site: AdminSite | None, redirects: bool) -> Visitor | HttpResponse:
    """Who asks, or the answer to somebody who may not.

    ``site``: that the page is a part of; None: of none. ``redirects``: to the login, where that helps.
    """
    try:
        with owner.max_wait(PATIENCE):
            found = _authenticated(request, site, redirects)
    except (OperationalError, InterfaceError):
        _keep_from_asking_again(request)
        return _remembered(request) or answer("The database could not be asked who you are.", 503)
    # This page is not to show itself as the one who has a connection.
    with contextlib.suppress(TransactionManagementError):
        pooling.release()
    return found


def _authenticated(request: HttpRequest, site: AdminSite | None, redirects: bool) -> Visitor | HttpResponse:
    user: Any = request.user
    if _is_staff(request, site):
        return Visitor(user.get_username(), user.has_perm(PERMISSION))
    if user.is_authenticated:
        return answer("This page is for staff.", 403)
    if not redirects:
        return answer("You are not logged in.", 403)
    response: HttpResponse = redirect_to_login(request.get_full_path(), admin_url(request, "login"))
    return response


def _is_staff(request: HttpRequest, site: AdminSite | None) -> bool:
    if site is None and apps.is_installed("django.contrib.admin"):
        from django.contrib import admin

        site = admin.site
    if site is not None:
        # Its own idea, which a project may have made stricter.
        return site.has_permission(request)
    user: Any = request.user
    return bool(user.is_active and user.is_staff)


def namespace(request: HttpRequest) -> str:
    """That of the page's URLs: a project includes them, and each site of the admin does."""
    assert request.resolver_match is not None
    return request.resolver_match.namespace


def admin_url(request: HttpRequest, name: str) -> str | None:
    """A page of the admin's: of the site that this request is in, or else of any."""
    try:
        return reverse(f"admin:{name}", current_app=namespace(request))
    except NoReverseMatch:
        return None


def answer(text: str, status: int) -> HttpResponse:
    if status == 403:
        return HttpResponseForbidden(f"{text}\n", content_type="text/plain; charset=utf-8")
    headers = {"Retry-After": "5"}
    return HttpResponse(f"{text}\n", content_type="text/plain; charset=utf-8", status=status, headers=headers)


class _Unread(SessionBase):
    """In the place of a session that could not be loaded: nobody tries to load or to save it later."""

    def __init__(self, session_key: str | None) -> None:
        super().__init__(session_key)
        self._session_cache: dict[str, Any] = {}

    def is_empty(self) -> bool:
        # An empty one's cookie would be deleted.
        return False

    def save(self, must_create: bool = False) -> None:
        pass


def _keep_from_asking_again(request: HttpRequest) -> None:
    request.user = AnonymousUser()
    if hasattr(request, "session"):
        request.session = _Unread(request.COOKIES.get(settings.SESSION_COOKIE_NAME))


# -- the cookie ----------------------------------------------------------------------------------------


def remember(request: HttpRequest, response: HttpResponseBase, who: Visitor) -> None:
    """The database has just said that this is one of the staff."""
    session = _session_digest(request)
    if session is None:
        return
    response.set_cookie(
        COOKIE,
        signing.dumps({"name": who.name, "session": session}, salt=_SALT),
        max_age=REMEMBERED,
        path=_path(request),
        secure=request.is_secure(),
        httponly=True,
        samesite="Strict",
    )


def forget(request: HttpRequest, response: HttpResponseBase) -> None:
    """The database has just said that this is none of the staff, or nobody has asked it."""
    if COOKIE in request.COOKIES and response.status_code != 503:
        response.delete_cookie(COOKIE, path=_path(request), samesite="Strict")


def _path(request: HttpRequest) -> str:
    return reverse(f"{namespace(request)}:index")


def _remembered(request: HttpRequest) -> Visitor | None:
    session = _session_digest(request)
    told = request.COOKIES.get(COOKIE)
    if session is None or told is None:
        return None
    try:
        known = signing.loads(told, salt=_SALT, max_age=REMEMBERED)
        at = signing.b62_decode(told.rsplit(":", 2)[1])
    except signing.BadSignature:
        return None
    if not constant_time_compare(known["session"], session):
        return None
    return Visitor(known["name"], may_act=False, seen=max(0.0, time.time() - at))


def _session_digest(request: HttpRequest) -> str | None:
    key = request.COOKIES.get(settings.SESSION_COOKIE_NAME)
    # With the page's own path, since another site may be stricter.
    return salted_hmac(f"{_SALT} {_path(request)}", key, algorithm="sha256").hexdigest() if key else None
