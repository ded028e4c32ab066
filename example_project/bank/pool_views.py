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
    """For Prometheus: this process, or all of them where PROMETHEUS_MULTIPROC_DIR names a directory."""
    from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
    from prometheus_client.multiprocess import MultiProcessCollector

    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
    return HttpResponse(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)
