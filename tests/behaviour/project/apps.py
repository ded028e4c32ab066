"""An app that reads from the database in ready(), before a test database exists."""

from __future__ import annotations

import threading
import warnings

from django.apps import AppConfig


class EagerConfig(AppConfig):
    name = "tests.behaviour.project"
    label = "eager"

    def ready(self) -> None:
        from django_db_pooling import pooling
        from tests.behaviour.models import Note

        pooling.patch()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            list(Note.objects.all())
            thread = threading.Thread(target=lambda: list(Note.objects.all()))
            thread.start()
            thread.join()
