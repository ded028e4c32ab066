"""The project, migrated, with a superuser and one of the staff."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import django
import pytest

_place = tempfile.TemporaryDirectory(prefix="page-")
os.environ["PAGE_DIRECTORY"] = _place.name
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.page.settings"
django.setup()

from django.contrib.auth.models import User  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import connections  # noqa: E402
from django.test import Client  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def project() -> Iterator[None]:
    call_command("migrate", verbosity=0)
    User.objects.create_superuser("boss", password="x")
    User.objects.create_user("clerk", password="x", is_staff=True)
    yield
    connections.close_all()
    _place.cleanup()


def client_of(name: str) -> Client:
    client = Client()
    client.force_login(User.objects.get(username=name))
    return client


@pytest.fixture
def boss() -> Client:
    return client_of("boss")


@pytest.fixture
def clerk() -> Client:
    return client_of("clerk")
