"""The probes' file as an app: its models have the label ``probes``."""

from __future__ import annotations

from importlib import import_module

from django.apps import AppConfig
from django.conf import settings


class Probes(AppConfig):
    name = "tests.neighbours"
    label = "probes"

    def import_models(self) -> None:
        super().import_models()
        self.models_module = import_module(settings.ROOT_URLCONF)
