"""The test site with the page of pools, and people who look at it."""

from __future__ import annotations

import http.cookiejar
import json
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.e2e import sites
from tests.e2e.sites import ANSWER_SECONDS, ROOT, Answer, Site
from tests.servers import HOST, DatabaseServer

MODULE = "tests.site.dashboard.settings"
PASSWORD = "not a secret"
USERS = """
from django.contrib.auth.models import User
for name, more in {
    "boss": {"is_staff": True, "is_superuser": True},
    "clerk": {"is_staff": True},
    "guest": {},
}.items():
    if not User.objects.filter(username=name).exists():
        User.objects.create_user(name, password=%r, **more)
"""
TOKEN = 'name="csrfmiddlewaretoken" value="'


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


class Visitor:
    """Somebody with cookies, who follows no redirects."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.cookies = http.cookiejar.CookieJar()
        cookies = urllib.request.HTTPCookieProcessor(self.cookies)
        self._opener = urllib.request.build_opener(cookies, _Stay)

    def ask(self, path: str, method: str = "GET", **form: str) -> Answer:
        data = urllib.parse.urlencode(form).encode() if method == "POST" else None
        request = urllib.request.Request(self.site.url + path, data=data, method=method)
        try:
            with self._opener.open(request, timeout=ANSWER_SECONDS) as response:
                return Answer(response.status, response.read().decode(), dict(response.headers.items()))
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.read().decode(), dict(error.headers.items()))

    def log_in(self, name: str) -> Visitor:
        page = self.ask("/admin/login/")
        assert page.status == 200, page
        token = token_of(page.text)
        answer = self.ask(
            "/admin/login/", "POST", username=name, password=PASSWORD, csrfmiddlewaretoken=token
        )
        assert answer.status == 302, answer
        return self

    def set_cookie(self, name: str, value: str, path: str = "/") -> None:
        where = (HOST, False, False, path, True)
        how = (False, None, False, None, None, {})
        self.cookies.set_cookie(http.cookiejar.Cookie(0, name, value, None, False, *where, *how))

    def cookie(self, name: str) -> str | None:
        return next((cookie.value for cookie in self.cookies if cookie.name == name), None)

    def overview(self) -> dict[str, Any]:
        answer = self.ask("/pools/overview.json")
        assert answer.status == 200, answer
        told: dict[str, Any] = json.loads(answer.text)
        return told


def token_of(html: str) -> str:
    return html.partition(TOKEN)[2].partition('"')[0]


@dataclass
class PoolsSite:
    """A running site, and how to run its commands."""

    site: Site
    environment: dict[str, str] = field(repr=False)

    def manage(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "django", *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )

    def visitor(self, name: str | None = None) -> Visitor:
        visitor = Visitor(self.site)
        return visitor if name is None else visitor.log_in(name)


@contextmanager
def pools_site(
    server: DatabaseServer, *, pooling: tuple[int, int], processes: int = 4, **settings: Any
) -> Iterator[PoolsSite]:
    """gunicorn -k gevent with so many processes, and people in its database."""
    with tempfile.TemporaryDirectory(prefix="status-") as directory:
        settings |= {"module": MODULE, "status_dir": directory}
        environment = sites.environment_of(server, dict(settings))
        for command in (["migrate", "--verbosity=0"], ["shell", "-c", USERS % PASSWORD]):
            done = subprocess.run(
                [sys.executable, "-m", "django", *command],
                cwd=ROOT,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
        arguments = [f"--workers={processes}"]
        with sites.gunicorn(server, pooling=pooling, arguments=arguments, **settings) as site:
            yield PoolsSite(site, environment)
