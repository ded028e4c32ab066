"""Whether this process can serve requests that need the database, for orchestrators and balancers.

It needs no login, no session and no query, and tells nothing of the site. It can be used without the page and
without Django's own apps: ``path("ready/", readiness.ready)``, or ``readiness.ready_for("default")`` where
the site can do without the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db import connections
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils.connection import ConnectionDoesNotExist
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from django_db_pooling.registry import registry

View = Callable[..., HttpResponse]


def ready_for(*aliases: str) -> View:
    """A view that speaks for these aliases only. Raises ConnectionDoesNotExist for an unknown one."""
    for alias in aliases:
        if alias not in connections.settings:
            raise ConnectionDoesNotExist(f"The connection {alias!r} doesn't exist.")
    return _view(aliases)


def _view(aliases: tuple[str, ...]) -> View:
    def answer(request: HttpRequest, site: object = None) -> HttpResponse:
        """200, or 503 with reasons: "no connection", "paused", "overloaded". ``site``: of the admin."""
        reasons = registry.reasons_to_go_elsewhere(aliases)
        return JsonResponse({"ready": not reasons, "reasons": reasons}, status=503 if reasons else 200)

    view: Any = never_cache(require_safe(answer))
    # Whichever aliases have ATOMIC_REQUESTS: Django asks `alias not in ...`.
    view._non_atomic_requests = connections
    # Django's LoginRequiredMiddleware would load the user.
    view.login_required = False
    return view  # type: ignore[no-any-return]


ready = _view(())
