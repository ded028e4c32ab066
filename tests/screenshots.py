"""Makes the pictures of the page of pools for the documentation: ``python -m tests.screenshots``.

It starts a MariaDB and the example site with four workers of small pools, sends it visitors for five minutes,
as long as the charts go back, and looks at the page with Chromium. Then somebody locks a table.
"""

from __future__ import annotations

import argparse
import http.cookiejar
import os
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pymysql

from tests import browser
from tests.servers import HOST, MariaDB, free_port

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "example_project"
PICTURES = ROOT / "docs" / "_static"
MOST_BYTES = 200_000
WORKERS = 4
# With these, the visitors below make the pools wait now and then.
ENVIRONMENT = {"POOL_SIZE": "4", "POOL_MAX_OUTSTANDING": "6", "WEB_CONCURRENCY": str(WORKERS)}
SECONDS = 300.0
# Visitors, one set after the other.
TIDES = (8, 26, 12, 40, 16, 30)
PATHS = ("/", "/accounts/", "/transfers/", "/accounts/1/balance.json", "/mixed/2.json", "/mixed/3.json")
TOKEN = 'name="csrfmiddlewaretoken" value="'


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for how long visitors come first")
    parser.add_argument("--into", type=Path, default=PICTURES, help="a directory")
    arguments = parser.parse_args()
    arguments.into.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        made = _make(stack, arguments.seconds, arguments.into)
    for path in made:
        print(f"{path.stat().st_size:7} {path}")
    return int(any(path.stat().st_size > MOST_BYTES for path in made))


def _make(stack: ExitStack, seconds: float, into: Path) -> list[Path]:
    server = stack.enter_context(MariaDB())
    server.create("bank")
    status = stack.enter_context(tempfile.TemporaryDirectory(prefix="status-"))
    password, port = secrets.token_urlsafe(9), free_port()
    environment = os.environ | ENVIRONMENT
    environment |= {
        "DATABASE_URL": server.url("bank"),
        "DEMO_ADMIN_PASSWORD": password,
        "HOST": HOST,
        "PORT": str(port),
        "TMPDIR": status,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
    for command in (["migrate", "--verbosity=0"], ["seed", "--demo-admin"]):
        subprocess.run([sys.executable, "manage.py", *command], cwd=EXAMPLE, env=environment, check=True)
    gunicorn = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "--log-level=error"]
    site = subprocess.Popen(gunicorn, cwd=EXAMPLE, env=environment)
    stack.callback(site.wait)
    stack.callback(site.terminate)
    url = f"http://{HOST}:{port}"
    cookies = _log_in(url, password)
    for visitors in TIDES:
        _visit(url, visitors, seconds / len(TIDES)).wait()
    crowd = _visit(url, max(TIDES), 120.0)
    page = stack.enter_context(browser.running()).page()
    page.set_cookies(cookies, url)
    page.window(1280, 900)
    page.open(f"{url}/pools/")
    time.sleep(8)
    made = [into / f"dashboard-{name}.png" for name in ("light", "dark", "phone", "exhausted")]
    page.screenshot(made[0])
    page.window(1280, 900, dark=True)
    page.screenshot(made[1])
    page.window(390, 844, mobile=True)
    page.screenshot(made[2])
    page.window(1280, 900)
    more = _visit(url, max(TIDES), 120.0)
    with _locked(server, "bank_transfer"):
        # Until the first have given up.
        page.until("document.querySelector('.notice ~ .pool .troubles') !== null", 60.0)
        page.screenshot(made[3])
    for each in (crowd, more):
        each.terminate()
        each.wait()
    return made


@contextmanager
def _locked(server: MariaDB, table: str) -> Iterator[None]:
    """Everybody who wants something of it has to wait."""
    where = {"host": server.host, "port": server.port, "user": server.user, "password": server.password}
    with closing(pymysql.connect(database="bank", **where)) as connection, connection.cursor() as cursor:
        cursor.execute(f"LOCK TABLES {table} WRITE")
        yield


def _visit(url: str, visitors: int, seconds: float) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.e2e.load", *(url + path for path in PATHS)]
    command += [f"--clients={visitors}", f"--seconds={seconds}"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)


def _log_in(url: str, password: str) -> http.cookiejar.CookieJar:
    cookies = http.cookiejar.CookieJar()
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(cookies))
    deadline = time.monotonic() + 30
    while True:
        try:
            page = opener.open(f"{url}/admin/login/").read().decode()
            break
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
    token = page.partition(TOKEN)[2].partition('"')[0]
    form = {"username": "demo", "password": password, "csrfmiddlewaretoken": token, "next": "/pools/"}
    opener.open(f"{url}/admin/login/", urllib.parse.urlencode(form).encode()).read()
    return cookies


if __name__ == "__main__":
    sys.exit(main())
