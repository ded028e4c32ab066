"""The page of pools, and `manage.py db_pools`, on four gevent workers and a real server."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pymysql
import pytest

from tests import browser
from tests.browser import Page
from tests.conftest import give_up
from tests.e2e.dashboard import PoolsSite, Visitor, pools_site, token_of
from tests.e2e.observer import DATABASE, Observer, observing
from tests.e2e.sites import eventually
from tests.servers import DatabaseServer, MariaDB

WORKERS = 4
SIZE, MOST = 3, 6
CLIENTS = 60
CROWD = 60
PATIENCE = 30.0
ROOTS = {"included": "/pools/", "admin": "/admin/django_db_pooling/connectionpool/"}
PAGES = ["", "live/", "overview.json"]
ACTIONS = ["default/recycle/", "default/close-idle/"]
NOTICE = "Your login could not be checked, because the database is not available."
COOKIE = "django_db_pooling_staff"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
# Its signature is good; it is too old by a second.
OLD_COOKIE = """
import time
from unittest import mock
from django.core import signing
from django_db_pooling.dashboard import access
old = signing.loads({cookie!r}, salt=access._SALT)
with mock.patch("time.time", return_value=time.time() - access.COOKIE_AGE - 1):
    print("cookie " + signing.dumps(old, salt=access._SALT))
"""


@pytest.fixture(scope="module")
def site(mariadb: MariaDB) -> Iterator[PoolsSite]:
    with pools_site(mariadb, pooling=(SIZE, MOST), processes=WORKERS, pool={"TIMEOUT": 100}) as site:
        yield site


@pytest.fixture
def boss(site: PoolsSite) -> Visitor:
    return site.visitor("boss")


@pytest.fixture(params=ROOTS.values(), ids=ROOTS)
def root(request: pytest.FixtureRequest) -> str:
    """Where the page is: included by the project, and in the admin."""
    path: str = request.param
    return path


@pytest.fixture
def observer(mariadb: MariaDB) -> Iterator[Observer]:
    """While the site runs."""
    with observing(mariadb) as observer:
        yield observer


def default(overview: dict[str, Any]) -> dict[str, Any]:
    pool: dict[str, Any] = next(pool for pool in overview["pools"] if pool["alias"] == "default")
    return pool


def all_workers_have_connections(site: PoolsSite, boss: Visitor) -> dict[str, Any]:
    """What the page says when each worker has told that it has an idle connection."""
    last: list[dict[str, Any]] = []

    def told() -> bool:
        site.site.get_all(["/hold?s=0.05"] * 40)
        time.sleep(0.5)
        last[:] = [default(boss.overview())]
        members = last[0]["members"]
        return len(members) == WORKERS and all(member["stats"]["idle"] for member in members)

    eventually(told, PATIENCE)
    return last[0]


@contextmanager
def exhausted(site: PoolsSite, server: MariaDB) -> Iterator[None]:
    """All connections are in use, and somebody waits in each worker: a table is locked."""
    where = {"host": server.host, "port": server.extra_port, "user": server.user, "password": server.password}
    loads = []

    def is_full() -> bool:
        members = default(json.loads(site.manage("db_pools", "--json").stdout))["members"]
        full = all(each["stats"]["waiting"] and each["stats"]["in_use"] == MOST for each in members)
        if full and len(members) == WORKERS:
            return True
        # Whose of the workers they become is up to chance.
        loads.append(site.site.load("/one", clients=CROWD, seconds=90.0))
        time.sleep(2.0)
        return False

    try:
        with closing(pymysql.connect(database=DATABASE, **where)) as connection:
            with connection.cursor() as cursor:
                cursor.execute("LOCK TABLES site_row WRITE")
            eventually(is_full, 2 * PATIENCE)
            yield
    finally:
        for load in loads:
            load.end()


# -- who may look --------------------------------------------------------------------------------------


def test_strangers_are_sent_to_log_in_and_get_nothing(site: PoolsSite, root: str) -> None:
    stranger = site.visitor()
    answer = stranger.ask(root)
    assert (answer.status, answer.headers["Location"]) == (302, f"/admin/login/?next={root}")
    for path in PAGES[1:]:
        answer = stranger.ask(root + path)
        assert (answer.status, answer.text) == (403, "You are not logged in.\n")
    assert stranger.cookie(COOKIE) is None


def test_who_is_not_staff_gets_nothing(site: PoolsSite, root: str, boss: Visitor) -> None:
    guest = site.visitor()
    # The admin's login turns guests away, so with the boss's cookies and without the boss's rights.
    done = site.manage("shell", "-c", SESSION_OF_GUEST)
    guest.set_cookie("sessionid", done.stdout.split("session ")[1].strip())
    for path in PAGES:
        answer = guest.ask(root + path)
        assert (answer.status, answer.text) == (403, "This page is for staff.\n")
    assert guest.cookie(COOKIE) is None
    assert all(guest.ask(root + path, "POST").status == 403 for path in ACTIONS)


SESSION_OF_GUEST = """
from importlib import import_module
from django.conf import settings
from django.contrib.auth import SESSION_KEY, BACKEND_SESSION_KEY, HASH_SESSION_KEY
from django.contrib.auth.models import User
guest = User.objects.get(username="guest")
session = import_module(settings.SESSION_ENGINE).SessionStore()
session[SESSION_KEY] = str(guest.pk)
session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
session[HASH_SESSION_KEY] = guest.get_session_auth_hash()
session.save()
print("session " + session.session_key)
"""


def test_who_is_not_staff_any_more_is_forgotten(site: PoolsSite, root: str, boss: Visitor) -> None:
    clerk = site.visitor("clerk")
    assert clerk.ask(root).status == 200
    assert clerk.cookie(COOKIE)
    assert (
        clerk.ask("/admin/logout/", "POST", csrfmiddlewaretoken=token_of(clerk.ask("/admin/").text)).status
        == 200
    )
    assert clerk.ask(root).status == 302
    assert not clerk.cookie(COOKIE)


def test_what_every_answer_says_about_itself(site: PoolsSite, root: str, boss: Visitor) -> None:
    for visitor in (boss, site.visitor()):
        for path in PAGES:
            headers = visitor.ask(root + path).headers
            assert headers["Content-Security-Policy"] == POLICY
            assert "no-store" in headers["Cache-Control"]
            assert headers["X-Content-Type-Options"] == "nosniff"


def test_nothing_is_inline_and_nothing_comes_from_elsewhere(
    site: PoolsSite, root: str, boss: Visitor
) -> None:
    all_workers_have_connections(site, boss)
    for path in PAGES[:2]:
        html = boss.ask(root + path).text
        assert not re.findall(r"\s(style|on\w+)=|<style|<script(?![^>]*\bsrc=)|https?://|//\w", html)
    # The site's language is German.
    assert not re.search(r'(points|width|x|y1)="[^"]*\d,\d+,', boss.ask(root).text)


def test_the_index_of_the_admin_has_it(site: PoolsSite, boss: Visitor) -> None:
    for visitor in (boss, site.visitor("clerk")):
        assert f'<a href="{ROOTS["admin"]}"' in visitor.ask("/admin/").text


def test_nothing_before_the_page_needs_a_connection(site: PoolsSite, root: str) -> None:
    """As LoginRequiredMiddleware or ATOMIC_REQUESTS would, if they weren't told."""
    script = (
        "from django.urls import resolve\n"
        f"for path in {[root + path for path in PAGES + ACTIONS]}:\n"
        "    view = resolve(path).func\n"
        "    print('view', view.login_required, view._non_atomic_requests)"
    )
    assert site.manage("shell", "-c", script).stdout.count("view False {'default'}") == 5


# -- acting ------------------------------------------------------------------------------------------


def commands(site: PoolsSite) -> list[str]:
    return sorted(path.name for path in Path(site.environment["SITE_STATUS_DIR"]).glob("*/*/*-command-*"))


def test_whatever_is_no_post_changes_nothing(site: PoolsSite, root: str, boss: Visitor) -> None:
    before, closed = commands(site), all_workers_have_connections(site, boss)["total"]["closed_by_reason"]
    for method in ("GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE"):
        for path in ACTIONS:
            assert boss.ask(root + path, method).status in (403, 405), method
        for path in PAGES:
            status = boss.ask(root + path, method).status
            assert status == 200 if method in ("GET", "HEAD") else status in (403, 405), method
    for path in PAGES:
        assert boss.ask(root + path, "POST").status in (403, 405)
    time.sleep(2.5)
    assert commands(site) == before
    assert default(boss.overview())["total"]["closed_by_reason"]["recycled"] == closed["recycled"]


def test_without_a_token_nothing_is_done(site: PoolsSite, root: str, boss: Visitor) -> None:
    before = commands(site)
    for path in ACTIONS:
        assert boss.ask(root + path, "POST").status == 403
        assert boss.ask(root + path, "POST", csrfmiddlewaretoken="x" * 64).status == 403
    assert commands(site) == before


def test_staff_without_the_permission_look_and_no_more(site: PoolsSite, root: str, boss: Visitor) -> None:
    all_workers_have_connections(site, boss)
    clerk = site.visitor("clerk")
    page = clerk.ask(root)
    assert page.status == 200
    assert "<form" not in page.text and "<form" in boss.ask(root).text
    before = commands(site)
    token = token_of(clerk.ask("/admin/").text)
    for path in ACTIONS:
        assert clerk.ask(root + path, "POST", csrfmiddlewaretoken=token).status == 403
    assert commands(site) == before


def test_what_there_is_not_is_not_found(site: PoolsSite, root: str, boss: Visitor) -> None:
    token = token_of(boss.ask(root).text)
    for path in ("other/recycle/", "default/drop/"):
        assert boss.ask(root + path, "POST", csrfmiddlewaretoken=token).status == 404


@pytest.mark.parametrize("action", ["recycle", "close-idle"])
def test_a_button_reaches_all_workers(
    site: PoolsSite, root: str, boss: Visitor, observer: Observer, action: str
) -> None:
    before = all_workers_have_connections(site, boss)
    numbers = set(observer.numbers())
    token = token_of(boss.ask(root).text)
    answer = boss.ask(f"{root}default/{action}/", "POST", csrfmiddlewaretoken=token)
    assert (answer.status, answer.headers["Location"]) == (303, f"{root}#pool-default")

    def done() -> bool:
        # Not by the page: the connection that a worker asks with who that is would not be idle.
        command = json.loads(site.manage("db_pools", "--json").stdout)["commands"][0]
        return bool(command["carried_out"] == command["of"] == WORKERS)

    eventually(done, PATIENCE)
    # Those of the visitors since.
    eventually(lambda: not numbers & set(observer.numbers()), 10.0)
    pool = default(boss.overview())
    for was, member in zip(before["members"], pool["members"], strict=True):
        assert was["pid"] == member["pid"]
        closed = [each["stats"]["closed_by_reason"]["recycled"] for each in (was, member)]
        assert closed[1] - closed[0] >= was["stats"]["idle"]
    assert f"done in {WORKERS} of {WORKERS} processes" in boss.ask(root).text


# -- what it shows ---------------------------------------------------------------------------------


def test_all_figures_agree_with_the_server(site: PoolsSite, boss: Visitor, observer: Observer) -> None:
    """On connections that are held for as long as this takes."""
    all_workers_have_connections(site, boss)
    load = site.site.load("/hold?s=15", clients=16, seconds=1.0)
    try:

        def agree() -> bool:
            page = default(boss.overview())["total"]
            command = default(json.loads(site.manage("db_pools", "--json").stdout))["total"]
            shown = re.search(r"in use</dt><dd>(\d+)</dd>", boss.ask("/pools/").text)
            counted = observer.connections()
            print(page["in_use"], command["in_use"], shown and shown[1], page["idle"], counted)
            # How many get one at once depends on whose of the workers they are.
            return (
                shown is not None
                and page["in_use"] == command["in_use"] == int(shown[1]) >= MOST
                and page["in_use"] + page["idle"] == command["in_use"] + command["idle"] == counted
            )

        eventually(agree, 12.0)
    finally:
        load.report()


def test_under_load_all_workers_are_there_and_a_killed_one_is_gone(site: PoolsSite, boss: Visitor) -> None:
    load = site.site.load("/one", "/atomic", "/hold?s=0.1", clients=CLIENTS, seconds=60)
    try:
        eventually(lambda: len(default(boss.overview())["members"]) == WORKERS, PATIENCE)
        pool = default(boss.overview())
        assert len({member["pid"] for member in pool["members"]}) == WORKERS
        assert pool["total"]["max_outstanding"] == WORKERS * MOST
        html = boss.ask("/pools/").text
        pids = [member["pid"] for member in pool["members"]]
        assert all(f">{pid}</th>" in html for pid in pids)
        # The visitors may just be starting.
        eventually(lambda: "/hold" in boss.ask("/pools/").text, PATIENCE)
        os.kill(pids[0], signal.SIGKILL)
        eventually(lambda: pids[0] not in [w["pid"] for w in boss.overview()["workers"]], 10.0)
        # gunicorn starts another one.
        eventually(lambda: len(boss.overview()["workers"]) == WORKERS, PATIENCE)
    finally:
        load.end()


def test_who_looks_holds_nothing_meanwhile(site: PoolsSite, boss: Visitor) -> None:
    all_workers_have_connections(site, boss)

    def is_quiet() -> bool:
        pool = default(boss.overview())
        return pool["total"]["in_use"] == 0 and pool["holders"] == []

    # Whoever is asked counts its own connections at that moment, so once is enough.
    eventually(is_quiet, PATIENCE)


# -- while the pool is exhausted -------------------------------------------------------------------------


def answered_soon(ask: Callable[[], Any]) -> Any:
    began = time.monotonic()
    answer = ask()
    assert time.monotonic() - began < 4.0
    return answer


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_an_exhausted_pool_can_be_looked_at(
    site: PoolsSite, root: str, boss: Visitor, mariadb: MariaDB
) -> None:
    page = boss.ask(root)
    cookie = next(cookie for cookie in boss.cookies if cookie.name == COOKIE)
    assert (cookie.path, cookie.secure) == (root, False)
    assert cookie.has_nonstandard_attr("HttpOnly")
    assert cookie.get_nonstandard_attr("SameSite") == "Strict"
    assert cookie.expires is not None and 590 <= cookie.expires - time.time() <= 600
    token = token_of(page.text)
    done = site.manage("shell", "-c", OLD_COOKIE.format(cookie=cookie.value))
    old = done.stdout.split("cookie ")[1].strip()
    without, forged, outdated, only = (site.visitor() for _ in range(4))
    for visitor in (without, forged, outdated):
        visitor.set_cookie("sessionid", boss.cookie("sessionid") or "")
    assert cookie.value is not None
    forged.set_cookie(COOKIE, cookie.value[:-1] + ("a" if cookie.value[-1] != "a" else "b"), root)
    outdated.set_cookie(COOKIE, old, root)
    only.set_cookie(COOKIE, cookie.value, root)

    def timeouts() -> int:
        return int(default(json.loads(site.manage("db_pools", "--json").stdout))["total"]["timeouts"])

    all_workers_have_connections(site, boss)
    with exhausted(site, mariadb):
        before, known = timeouts(), (boss.cookie("sessionid"), boss.cookie(COOKIE))
        for path in PAGES:
            answer = answered_soon(lambda path=path: boss.ask(root + path))
            assert answer.status == 200
            assert (NOTICE in answer.text) == (path != "overview.json")
            assert "<form" not in answer.text
            assert answer.headers["Content-Security-Policy"] == POLICY
        assert (boss.cookie("sessionid"), boss.cookie(COOKIE)) == known
        for visitor in (without, forged, outdated):
            for path in PAGES:
                answer = answered_soon(lambda visitor=visitor, path=path: visitor.ask(root + path))
                # Once asked for, by a connection outside of the pool.
                assert (answer.status, NOTICE in answer.text) == (200, path == "live/")
        # Who has no session is nobody, without a question.
        answer = answered_soon(lambda: only.ask(root))
        assert (answer.status, answer.headers["Location"]) == (302, f"{root}login/?next={root}")
        assert answered_soon(lambda: only.ask(f"{root}live/")).status == 403
        had = commands(site)
        answer = answered_soon(lambda: boss.ask(root + ACTIONS[0], "POST", csrfmiddlewaretoken=token))
        assert answer.status == 503 and "Nothing was done" in answer.text
        assert commands(site) == had
        # Nobody who only wanted to look counts as one who gave up.
        assert timeouts() == before
        waiting = site.manage("db_pools", "--fail-if-waiting", "3")
        assert waiting.returncode == 1 and "callers wait for a connection, more than 3" in waiting.stderr
    assert boss.ask(root).status == 200
    assert NOTICE not in boss.ask(root).text
    eventually(lambda: site.manage("db_pools", "--fail-if-waiting", "3").returncode == 0, PATIENCE)


def test_sessions_that_are_saved_with_every_request_are_not_waited_for(mariadb: MariaDB) -> None:
    with pools_site(
        mariadb, pooling=(1, 1), processes=1, save_sessions=True, pool={"TIMEOUT": 20, "MAX_WAITING": 9}
    ) as site:
        boss = site.visitor("boss")
        assert boss.ask("/pools/").status == 200
        session = boss.cookie("sessionid")
        load = site.site.load("/hold?s=8", clients=2, seconds=0.5)
        eventually(lambda: json.loads(site.manage("db_pools", "--json").stdout)["workers"], 10.0)
        time.sleep(1.0)
        answer = answered_soon(lambda: boss.ask("/pools/"))
        assert answer.status == 200 and NOTICE in answer.text
        assert boss.cookie("sessionid") == session
        load.end()
        assert NOTICE not in boss.ask("/pools/").text


# -- files ---------------------------------------------------------------------------------------------


def status_directory(site: PoolsSite) -> Path:
    [directory] = Path(site.environment["SITE_STATUS_DIR"]).glob("django_db_pooling-*/*")
    return directory


def test_damaged_files_are_passed_over_by_page_and_command(site: PoolsSite, boss: Visitor) -> None:
    before = all_workers_have_connections(site, boss)
    directory = status_directory(site)
    report = next(directory.glob("*-report-*.json"))
    told = json.loads(report.read_text())
    told["pools"]["default"]["stats"] |= {"in_use": "7", "idle": [], "waiting": None}
    damaged = []
    for number, text in enumerate((json.dumps(told), "[]", "\0" * 1000, "{" * 100_000)):
        path = directory / f"django_db_pooling-report-{number}-{'0' * 32}.json"
        path.write_text(text.replace(told["id"], f"{number}-{'0' * 32}"))
        damaged.append(path)
    try:
        for path in PAGES:
            assert boss.ask(ROOTS["included"] + path).status == 200
        done = site.manage("db_pools", "--json")
        assert done.returncode == 0 and "Traceback" not in done.stderr
        pids = {member["pid"] for member in before["members"]}
        for overview in (boss.overview(), json.loads(done.stdout)):
            assert {worker["pid"] for worker in overview["workers"]} == pids
        assert site.site.log.count(f"ignoring {damaged[0]}: pools: ") >= 1
    finally:
        for path in damaged:
            path.unlink(missing_ok=True)


def test_a_directory_that_others_can_enter_is_refused_and_the_site_works_on(
    site: PoolsSite, boss: Visitor
) -> None:
    all_workers_have_connections(site, boss)
    directory = status_directory(site)
    directory.chmod(0o770)
    try:
        # Whichever worker answers knows of itself.
        page = boss.ask("/pools/")
        assert page.status == 200 and "can’t share their status" in page.text
        assert f"{directory} is open to other users (mode 0770)" in page.text
        assert len(boss.overview()["workers"]) == 1
        done = site.manage("db_pools")
        assert done.returncode == 2 and f"{directory} is open to other users" in done.stderr
        assert "give it mode 0700" in done.stderr
        token = token_of(page.text)
        answer = boss.ask("/pools/default/recycle/", "POST", csrfmiddlewaretoken=token)
        assert answer.status == 503 and "open to other users" in answer.text
        eventually(lambda: site.site.log.count("can't share pool status") == WORKERS, 10.0)
    finally:
        directory.chmod(0o700)
    eventually(lambda: len(boss.overview()["workers"]) == WORKERS, 15.0)
    eventually(
        lambda: site.site.log.count("sharing pool status with other processes works again") == WORKERS, 20.0
    )
    assert "can’t share their status" not in boss.ask("/pools/").text


# -- the command ---------------------------------------------------------------------------------------


def test_where_nothing_runs_the_command_says_so(site: PoolsSite, tmp_path: Path) -> None:
    nobody = PoolsSite(site.site, site.environment | {"SITE_STATUS_DIR": str(tmp_path)})
    for arguments in ([], ["--json"], ["--fail-if-waiting", "0"], ["--plan"]):
        done = nobody.manage("db_pools", *arguments)
        assert done.returncode == 2
        assert "No process of this site reports its pools" in done.stderr
        assert "INSTALLED_APPS" in done.stderr and str(tmp_path) in done.stderr
        assert "Traceback" not in done.stderr
    assert json.loads(nobody.manage("db_pools", "--json").stdout)["workers"] == []


def test_the_table(site: PoolsSite, boss: Visitor) -> None:
    all_workers_have_connections(site, boss)
    done = site.manage("db_pools")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(len(line) for line in lines if "gunicorn" in line or "total" in line) <= 80
    assert lines[0].startswith(f"{WORKERS} processes at ")
    assert sum(" gunicorn " in line for line in lines) == WORKERS
    assert sum("  total " in line for line in lines) == 1


def test_the_page_says_what_the_server_accepts_and_asks_it_now_and_then(
    site: PoolsSite, boss: Visitor, observer: Observer
) -> None:
    all_workers_have_connections(site, boss)
    before = observer.connections()
    # Each worker asks with an idle connection of its own.
    eventually(lambda: "the server’s limit is 50 (max_connections 50)" in boss.ask("/pools/").text, PATIENCE)
    assert observer.connections() <= before


@pytest.mark.parametrize(("hosts", "status"), [(1, 0), (2, 0), (3, 1)])
def test_the_plan_is_held_against_the_servers_limit(
    site: PoolsSite, boss: Visitor, hosts: int, status: int
) -> None:
    eventually(lambda: site.manage("db_pools").returncode == 0, PATIENCE)
    done = site.manage("db_pools", "--plan", "--workers=4", f"--hosts={hosts}")
    assert done.returncode == status, done
    assert "  limit         50 (max_connections 50)" in done.stdout
    assert f"{hosts} x 4 x {MOST} = " in done.stdout


def test_the_plan_of_postgresql(postgresql: DatabaseServer) -> None:
    with pools_site(postgresql, pooling=(SIZE, MOST), processes=2) as site:
        done = site.manage("db_pools", "--plan", "--workers=1")
        assert "default 20 (from settings)" in done.stdout
        site.visitor("boss")
        eventually(lambda: site.manage("db_pools").returncode == 0, PATIENCE)
        done = site.manage("db_pools", "--plan", "--workers=8")
        assert "  limit         47 (max_connections 50, less 3 reserved)" in done.stdout, done
        assert f"1 x 8 x {MOST} = 48" in done.stdout
        assert (done.returncode, "1 too many; 5 per process would fit" in done.stdout) == (1, True)


# -- in a browser --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium() -> Iterator[browser.Browser]:
    if browser.find() is None:
        give_up("chromium is not installed; `make test` as root installs it")
    with browser.running() as running:
        yield running


@contextmanager
def page_of(chromium: browser.Browser, visitor: Visitor) -> Iterator[Page]:
    page = chromium.page()
    page.set_cookies(visitor.cookies, visitor.site.url)
    page.window(1280, 900)
    try:
        yield page
    finally:
        page.close()


TIME = "document.querySelector('time').textContent"


def test_under_load_it_refreshes_itself_without_complaints(
    site: PoolsSite, root: str, boss: Visitor, chromium: browser.Browser
) -> None:
    # Not so many that the page would have to wait to know who looks.
    load = site.site.load("/one", "/atomic", "/hold?s=0.2", clients=2 * WORKERS, seconds=60)
    try:
        with page_of(chromium, boss) as page:
            page.open(site.site.url + root)
            page.until("document.querySelectorAll('.processes tbody tr').length === 4")
            first = page.evaluate(TIME)
            page.evaluate("document.getElementById('recycle-default').focus()")
            page.evaluate("document.getElementById('totals-default').open = true")
            page.until(f"{TIME} !== {first!r}")
            # Whoever is at something stays at it.
            assert page.evaluate("document.activeElement.id") == "recycle-default"
            assert page.evaluate("document.getElementById('totals-default').open")
            page.evaluate("document.getElementById('pause').click()")
            time.sleep(0.5)
            paused = page.evaluate(TIME)
            time.sleep(4.0)
            assert page.evaluate(TIME) == paused
            page.evaluate("document.getElementById('pause').click()")
            page.until(f"{TIME} !== {paused!r}")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            page.window(390, 844, mobile=True)
            assert page.evaluate("document.documentElement.scrollWidth") <= 390
            page.evaluate("document.getElementById('recycle-default').click()")
            page.until("location.hash === '#pool-default' && document.querySelector('.command') !== null")
            page.until("document.querySelector('.command').textContent.includes('done in 4 of 4 processes')")
            assert page.complaints == []
    finally:
        load.end()


def test_without_javascript_it_loads_itself_anew(
    site: PoolsSite, boss: Visitor, chromium: browser.Browser
) -> None:
    all_workers_have_connections(site, boss)
    with page_of(chromium, boss) as page:
        page.send("Emulation.setScriptExecutionDisabled", value=True)
        page.open(f"{site.site.url}/pools/")
        first = page.evaluate(TIME)
        assert page.evaluate("document.getElementById('pause').hidden")
        page.until(f"{TIME} !== {first!r}", 15.0)
        assert page.complaints == []


def test_it_says_when_there_is_no_answer_and_when_one_is_logged_out(
    site: PoolsSite, boss: Visitor, chromium: browser.Browser
) -> None:
    with page_of(chromium, boss) as page:
        page.open(f"{site.site.url}/pools/")
        page.offline(True)
        page.until("document.getElementById('stale').textContent.startsWith('Not updated since ')")
        page.offline(False)
        page.until("document.getElementById('stale').hidden")
        page.send("Network.clearBrowserCookies")
        page.until("document.getElementById('stale').textContent.includes('not logged in')")
