"""Where Django looks for the app's models: they are in the probes' file."""

from __future__ import annotations

from importlib import import_module

from django.conf import settings

import_module(settings.ROOT_URLCONF)
