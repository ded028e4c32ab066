"""Whether this process can serve requests that need the database, for orchestrators and balancers.

It needs no login, no session and no query, and tells nothing of the site. It can be used without the page and
without Django's own apps: ``path("ready/", readiness.ready)``.
"""

from __future__ import annotations

from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from django_db_pooling.registry import registry


def _ready(request: HttpRequest, site: object = None) -> HttpResponse:
    """200, or 503 with reasons: "no connection", "paused", "overloaded". ``site``: of the admin."""
    reasons = registry.reasons_to_go_elsewhere()
    return JsonResponse({"ready": not reasons, "reasons": reasons}, status=503 if reasons else 200)


ready = never_cache(transaction.non_atomic_requests(require_safe(_ready)))
# Django's LoginRequiredMiddleware would load the user.
ready.login_required = False  # type: ignore[attr-defined]
