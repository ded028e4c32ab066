"""The probes' file as an app, whose models have the label ``probes``."""

from __future__ import annotations

from django.apps import AppConfig


class Probes(AppConfig):
    name = "tests.neighbours"
    label = "probes"
