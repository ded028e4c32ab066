"""The pools of the process that answers, for programs. People have a page of their own, /pools/."""

from __future__ import annotations

import os
from dataclasses import asdict

from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from django_db_pooling import pooling


@require_safe
@never_cache
def pool_json(request: HttpRequest) -> JsonResponse:
    """Doesn't touch the database."""
    pools = {} if os.environ.get("POOLING") == "off" else pooling.stats()
    return JsonResponse({"pid": os.getpid(), "pools": {alias: asdict(each) for alias, each in pools.items()}})
