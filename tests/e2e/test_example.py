"""The example site's demo, from the command line to its end."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import require, require_module
from tests.servers import MariaDB, free_port
from tests.slapd import Slapd

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "example_project" / "demo" / "run.py"
SECONDS = 120
CLERKS = 100
# On Python's path it comes before everything else.
WITHOUT_LDAP = "import sys\n\nsys.modules.update(ldap=None, ldapdb=None)\n"


@pytest.fixture
def without_ldap(tmp_path: Path) -> dict[str, str]:
    """Variables with which neither python-ldap nor django-ldapdb can be imported."""
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_LDAP)
    path = os.pathsep.join(filter(None, [str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH")]))
    return {"PYTHONPATH": path}


def clean_environment() -> dict[str, str]:
    of_the_site = ("DATABASE_URL", "LDAP_URL", "LDAP_BIND_DN", "LDAP_PASSWORD", "PORT")
    return {name: value for name, value in os.environ.items() if name not in of_the_site}


def run_demo(**variables: str) -> str:
    run = subprocess.run(
        # Other tests may run a demo at the same time, and each would like to have the usual port.
        [sys.executable, str(DEMO), "--once", f"--port={free_port()}"],
        env=clean_environment() | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    print(run.stdout, run.stderr)
    assert run.returncode == 0
    return run.stdout


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 30)
def test_on_sqlite_without_a_directory(tmp_path: Path, without_ldap: dict[str, str]) -> None:
    output = run_demo(DATABASE_URL=f"sqlite:///{tmp_path / 'bank.sqlite3'}", **without_ldap)
    assert " 0 failed" in output
    assert " checkouts on " in output
    assert "Directory: none" in output
    assert "/people/" not in output
    compared = re.findall(r"^  (\w.+\S) +(\d+) requests/s \| \d of 5 connections in use", output, re.M)
    assert [name for name, _ in compared] == [
        "request scope, the default",
        "request scope, release() before the call",
        "transaction scope",
    ]
    assert all(int(rate) > 0 for _, rate in compared)


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 30)
def test_with_the_slapd_that_it_starts_itself(tmp_path: Path) -> None:
    require(Slapd)
    require_module("ldap")
    require_module("ldapdb")
    output = run_demo(DATABASE_URL=f"sqlite:///{tmp_path / 'bank.sqlite3'}")
    assert "a private slapd" in output
    assert "/people/\n" in output
    assert " 0 failed" in output
    figures = re.findall(
        r"directory: .* (\d+) checkouts on (\d+) connections \| "
        r"the server counts (\d+), after (\d+) binds and (\d+) searches",
        output,
    )
    checkouts, opened, connections, binds, searches = map(int, figures[-1])
    # The load goes on between the pool's figures and the server's.
    assert 0 < opened <= connections <= binds
    assert 0 < checkouts <= searches
    assert binds < searches


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 30)
def test_on_the_mariadb_that_it_starts_itself() -> None:
    require(MariaDB)
    output = run_demo()
    assert "a private MariaDB" in output
    assert " 0 failed" in output
    assert " checkouts on " in output


def run_site_tests(*labels: str, **variables: str) -> None:
    run = subprocess.run(
        [sys.executable, "manage.py", "test", *labels],
        cwd=DEMO.parent.parent,
        env={"PYTHONPATH": str(ROOT)} | clean_environment() | variables,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    print(run.stdout, run.stderr)
    assert run.returncode == 0
    assert "\nOK" in run.stderr


@pytest.mark.timeout(SECONDS + 30)
@pytest.mark.parametrize("server", ["sqlite", "mariadb", "postgresql"])
def test_the_sites_own_tests_pass(
    server: str, request: pytest.FixtureRequest, tmp_path: Path, without_ldap: dict[str, str]
) -> None:
    url = (
        f"sqlite:///{tmp_path / 'bank.sqlite3'}"
        if server == "sqlite"
        else request.getfixturevalue(server).url("bank")
    )
    run_site_tests("bank", DATABASE_URL=url, **without_ldap)


@pytest.mark.timeout(SECONDS + 30)
def test_the_sites_own_tests_pass_with_a_directory(tmp_path: Path) -> None:
    require(Slapd)
    require_module("ldap")
    require_module("ldapdb")
    with Slapd(users=CLERKS) as directory:
        run_site_tests(
            "bank",
            "people",
            DATABASE_URL=f"sqlite:///{tmp_path / 'bank.sqlite3'}",
            DJANGO_SETTINGS_MODULE="people.settings",
            PYTHONPATH=os.pathsep.join([str(ROOT), str(DEMO.parent), os.environ.get("PYTHONPATH", "")]),
            LDAP_URL=f"{directory.uri}/{directory.base_dn}",
            LDAP_BIND_DN=directory.user_dn(0),
            LDAP_PASSWORD=directory.user_password(0),
        )
