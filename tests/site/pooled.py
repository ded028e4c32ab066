"""Pools this process where SITE_POOLING says how large ("10/20"); for wsgi.py and asgi.py."""

from __future__ import annotations

import os

from django_db_pooling import pooling

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.site.settings")

if os.environ.get("SITE_POOLING"):
    size, max_outstanding = map(int, os.environ["SITE_POOLING"].split("/"))
    pooling.set_pool_size(size, max_outstanding=max_outstanding)
    pooling.patch()
