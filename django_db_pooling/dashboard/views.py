"""The views. What they show needs no database connection, but servers' limits do, and checking the login."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from django.db import connections, transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.middleware.csrf import get_token
from django.template.loader import render_to_string
from django.templatetags.static import static
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.http import require_POST, require_safe

from django_db_pooling.dashboard import access, presentation, server_limits
from django_db_pooling.dashboard.access import Visitor
from django_db_pooling.log import redact
from django_db_pooling.workers import commands, overview
from django_db_pooling.workers.commands import Action

if TYPE_CHECKING:
    from django.contrib.admin import AdminSite

REFRESH_SECONDS = 2
# Without JavaScript, the page is reloaded this often.
RELOAD_SECONDS = 10

View = Callable[..., HttpResponse]


def _for_staff(view: View, redirects: bool = False) -> View:
    """Pass a Visitor to the view, or answer instead of it. Nothing before it may need a connection.

    ``site``: the admin site that the page belongs to, if any.
    """

    @wraps(view)
    def checked(
        request: HttpRequest, *args: Any, site: AdminSite | None = None, **kwargs: Any
    ) -> HttpResponse:
        visitor = access.visitor(request, site, redirects)
        if isinstance(visitor, HttpResponse):
            access.forget(request, visitor)
            return with_security_headers(visitor)
        response = with_security_headers(view(request, visitor, *args, **kwargs))
        if visitor.seen is None:
            access.remember(request, response, visitor)
        return response

    # Django's LoginRequiredMiddleware would load the user, and wait for a connection for up to TIMEOUT.
    checked.login_required = False  # type: ignore[attr-defined]
    return never_cache(transaction.non_atomic_requests(checked))


def with_security_headers(response: HttpResponse) -> HttpResponse:
    here = " ".join(filter(None, ["'self'", _static_origin()]))
    response["Content-Security-Policy"] = (
        f"default-src 'none'; script-src {here}; style-src {here}; img-src {here} data:; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    )
    response["X-Content-Type-Options"] = "nosniff"
    response["Referrer-Policy"] = "same-origin"
    return response


def _static_origin() -> str:
    """The origin of static files, if that is another host."""
    url = urlsplit(static("django_db_pooling/pools.css"))
    return f"{url.scheme or 'https'}://{url.netloc}" if url.netloc else ""


def _context(request: HttpRequest, visitor: Visitor) -> dict[str, Any]:
    seen = overview.look()
    context = presentation.context(seen, visitor) | {"namespace": access.namespace(request)}
    # Where the login could be checked, the database answers.
    limits = server_limits.of(seen.pools) if visitor.seen is None else {}
    for pool in context["pools"]:
        pool["server_limit"] = limits.get(pool["alias"])
    # Without the project's context processors, which may query. The token only where a button needs it: it
    # may be stored in the session.
    if visitor.may_resume:
        context["csrf_token"] = get_token(request)
    return context


def _index(request: HttpRequest, visitor: Visitor) -> HttpResponse:
    context = _context(request, visitor) | {
        "refresh": str(REFRESH_SECONDS),
        "reload": str(RELOAD_SECONDS),
        "admin": access.admin_url(request, "index"),
    }
    return HttpResponse(render_to_string("django_db_pooling/index.html", context))


def _live(request: HttpRequest, visitor: Visitor) -> HttpResponse:
    return HttpResponse(render_to_string("django_db_pooling/_live.html", _context(request, visitor)))


def _data(request: HttpRequest, visitor: Visitor) -> HttpResponse:
    return JsonResponse(overview.look().as_dict())


def _act(request: HttpRequest, visitor: Visitor, alias: str, action: str) -> HttpResponse:
    if visitor.seen is not None and not (visitor.may_resume and action == Action.RESUME):
        return access.answer(f"{access.NOT_CHECKED} Nothing was done.", 503)
    if not visitor.may_resume:
        return access.answer("You may not change connection pools.", 403)
    if alias not in connections.settings or action not in list(Action):
        raise Http404
    try:
        seconds = commands.PAUSE if action == Action.PAUSE else None
        commands.give(alias, Action(action), visitor.name, seconds)
    except OSError as error:
        return access.answer(f"The other processes can't be reached: {redact(error)}", 503)
    return HttpResponseRedirect(reverse(f"{access.namespace(request)}:index") + f"#pool-{alias}", status=303)


index = require_safe(_for_staff(_index, redirects=True))
live = require_safe(_for_staff(_live))
data = require_safe(_for_staff(_data))
act = require_POST(csrf_protect(_for_staff(_act)))
