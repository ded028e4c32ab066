"""The project's backend, with a fresh token for a password at each connect, as clouds' databases want it."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from django.conf import settings
from django.db.utils import load_backend

from tests.behaviour.settings import DRIVER, ENGINES

Backend: Any = load_backend(ENGINES[DRIVER]).DatabaseWrapper


class DatabaseWrapper(Backend):
    def get_connection_params(self) -> dict[str, Any]:
        self.settings_dict["PASSWORD"] = uuid4().hex
        params: dict[str, Any] = super().get_connection_params()
        if "password" in params:
            # The server takes the token for what it knows.
            params["password"] = settings.DATABASES["default"]["PASSWORD"]
        return params
