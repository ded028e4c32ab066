"""The page of pools while a pool is paused, also that of the users, whom nobody can ask then."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from tests.e2e.dashboard import PoolsSite, Visitor, pools_site, token_of
from tests.e2e.sites import eventually
from tests.e2e.test_dashboard import PATIENCE
from tests.servers import MariaDB

WORKERS = 2
NOTICE = "Your login could not be checked"
PAUSED = r"<strong>Paused(?: in 1 of 2 processes)? until \d\d:\d\d:\d\d\.</strong>"
RESUME, PAUSE, RECYCLE = (f'id="{name}-default"' for name in ("resume", "pause", "recycle"))


@pytest.fixture(scope="module")
def site(mariadb: MariaDB) -> Iterator[PoolsSite]:
    with pools_site(mariadb, pooling=(2, 4), processes=WORKERS, pool={"TIMEOUT": 60}) as site:
        yield site


@pytest.fixture(autouse=True)
def resumed(site: PoolsSite) -> Iterator[None]:
    yield
    site.manage("db_pools", "--resume")
    eventually(lambda: is_resumed(site), PATIENCE)


def pauses(site: PoolsSite) -> list[float | None]:
    """The seconds left in each process that reports."""
    pools = json.loads(site.manage("db_pools", "--json").stdout)["pools"]
    return [
        member["stats"]["paused"]
        for pool in pools
        if pool["alias"] == "default"
        for member in pool["members"]
    ]


def is_paused(site: PoolsSite) -> bool:
    return all(pauses(site)) and bool(pauses(site))


def is_resumed(site: PoolsSite) -> bool:
    return not any(pauses(site))


def press(visitor: Visitor, action: str, token: str) -> int:
    return visitor.ask(f"/pools/default/{action}/", "POST", csrfmiddlewaretoken=token).status


def test_a_button_pauses_and_another_one_resumes(site: PoolsSite) -> None:
    boss, clerk = site.visitor("boss"), site.visitor("clerk")
    page = boss.ask("/pools/").text
    assert PAUSE in page and RECYCLE in page and RESUME not in page and "Paused" not in page
    # The cookie that lets him in while nobody can be asked.
    clerks = clerk.ask("/pools/").text
    assert "<form" not in clerks
    assert press(boss, "pause", token_of(page)) == 303
    eventually(lambda: is_paused(site), PATIENCE)

    page = boss.ask("/pools/").text
    assert re.search(PAUSED, page), page
    assert NOTICE in page
    assert RESUME in page and PAUSE not in page and RECYCLE not in page
    token = token_of(page)
    # Only this one, and only he.
    for action in ("recycle", "close-idle", "pause"):
        assert press(boss, action, token) == 503
    clerks = clerk.ask("/pools/").text
    assert re.search(PAUSED, clerks) and "<form" not in clerks
    assert clerk.ask("/pools/default/resume/", "POST", csrfmiddlewaretoken=token).status in (403, 503)
    assert is_paused(site)

    assert press(boss, "resume", token) == 303
    eventually(lambda: is_resumed(site), PATIENCE)
    page = boss.ask("/pools/").text
    assert PAUSE in page and RESUME not in page and "until" not in page
    assert "Pause pool, requested" in page and "Resume pool, requested" in page


def test_readiness_needs_no_login(site: PoolsSite) -> None:
    stranger = site.visitor()
    for root in ("/pools/", "/admin/django_db_pooling/connectionpool/"):
        answer = stranger.ask(f"{root}ready/")
        assert (answer.status, json.loads(answer.text)) == (200, {"ready": True, "reasons": []})
        assert stranger.ask(f"{root}ready/", "HEAD").status == 200
        # By the middleware against forged requests, or the view.
        assert stranger.ask(f"{root}ready/", "POST").status in (403, 405)
    assert not list(stranger.cookies)
    # Nobody can pause a process that has not had a query yet.
    site.visitor("boss")
    eventually(lambda: site.manage("db_pools").returncode == 0, PATIENCE)
    done = site.manage("db_pools", "--pause", "20")
    assert done.returncode == 0, done.stderr
    eventually(lambda: stranger.ask("/pools/ready/").status == 503, PATIENCE)
    assert json.loads(stranger.ask("/pools/ready/").text) in (
        {"ready": False, "reasons": ["paused"]},
        {"ready": True, "reasons": []},
    )
    site.manage("db_pools", "--resume")
    eventually(lambda: is_resumed(site), PATIENCE)
