"""As in the tests around it, with an app that queries while Django starts."""

from __future__ import annotations

import os

from tests.behaviour.settings import *  # noqa: F403
from tests.behaviour.settings import DATABASES, DRIVER, INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "tests.behaviour.project.apps.EagerConfig"]
DATABASES["default"]["POOL"] = {"SIZE": 3, "MAX_OUTSTANDING": 6, "TIMEOUT": 10}  # type: ignore[assignment]
if DRIVER == "sqlite3" and os.environ.get("POOLING_TEST_NAME"):
    DATABASES["default"]["TEST"] = {"NAME": os.environ["POOLING_TEST_NAME"]}  # type: ignore[assignment]
STATIC_URL = "/static/"
MEDIA_URL = "/media/"
