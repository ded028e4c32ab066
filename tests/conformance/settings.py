"""Settings for Django's tests/runtests.py, the same with and without the patch."""

from __future__ import annotations

from tests.conformance.spec import Spec

_spec = Spec.of_this_process()

DATABASES = _spec.databases
TEST_RUNNER = "tests.conformance.runner.Runner"

# The rest is what Django's tests/test_sqlite.py has.
SECRET_KEY = "django_tests_secret_key"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
