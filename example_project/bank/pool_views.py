"""The pools, for programs. People have a page of their own, /pools/."""

from __future__ import annotations

import os
from dataclasses import asdict

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from django_db_pooling import pooling


@require_safe
@never_cache
def pool_json(request: HttpRequest) -> JsonResponse:
    """Those of the process that answers. Doesn't touch the database."""
    pools = {} if os.environ.get("POOLING") == "off" else pooling.stats()
    return JsonResponse({"pid": os.getpid(), "pools": {alias: asdict(each) for alias, each in pools.items()}})


@require_safe
@never_cache
def metrics(request: HttpRequest) -> HttpResponse:
    """For Prometheus: the pools of all processes on this host, and this process itself."""
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

    return HttpResponse(generate_latest(), content_type=CONTENT_TYPE_LATEST)
