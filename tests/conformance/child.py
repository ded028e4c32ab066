"""The process of one run: Django's own tests/runtests.py with our settings, patched or not.

Its working directory is Django's tests; all arguments are for runtests.py.
"""

from __future__ import annotations

import importlib
import os
import runpy
import sys
from pathlib import Path

from django.db import connections
from django.db.utils import load_backend

from tests.conformance.spec import Spec


def main() -> None:
    spec = Spec.of_this_process()
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.conformance.settings"
    tests = Path.cwd()
    sys.path[0] = str(tests)
    sys.argv[0] = str(tests / "runtests.py")
    if spec.driver == "pymysql":
        # Before runtests.py, which imports MySQLdb and would get mysqlclient where that is installed.
        importlib.import_module("pymysql").install_as_MySQLdb()
    if not spec.transactions:
        for alias in connections:
            backend = load_backend(connections.settings[alias]["ENGINE"])
            backend.DatabaseWrapper.features_class.supports_transactions = False
    if spec.scope is not None:
        from django_db_pooling import owner, pooling

        for alias in connections:
            connections.settings[alias]["POOL"] = {"SCOPE": spec.scope}
        # Nearly all tests run outside of requests, where transaction scope applies and no setting says
        # otherwise. Without this hardly anything of the suite would try request scope.
        owner.ELSEWHERE = spec.scope
        pooling.patch()
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
