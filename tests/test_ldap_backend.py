"""Runs tests/ldap_backend with the last release of django-ldapdb of that name, which needs pytz.

In an environment of its own, where POOLING_ENVIRONMENTS says or else inside of this one.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.conftest import require, require_environment, require_module
from tests.folders import SECONDS, run_folder
from tests.slapd import Slapd

RELEASED = ["Django>=5.2,<5.3", "django-ldapdb==1.5.1", "pytz", "python-ldap"]
RELEASED += ["gevent", "pytest", "pytest-timeout"]
# From Python 3.12 on that release is warned of when it is imported.
SETTINGS = {"PYTEST_ADDOPTS": "-W 'ignore:datetime.datetime.utcfromtimestamp:DeprecationWarning'"}


@pytest.mark.timeout(2 * SECONDS + 30)
@pytest.mark.parametrize("concurrency", ["threads", "gevent"])
def test_the_django_backend_with_the_released_django_ldapdb(concurrency: str) -> None:
    require(Slapd)
    require_module("ldap")
    place = Path(os.environ.get("POOLING_ENVIRONMENTS") or Path(sys.prefix, "environments"))
    run_folder("ldap_backend", concurrency, SETTINGS, require_environment(place, RELEASED))
