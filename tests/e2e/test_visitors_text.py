"""What visitors put into a path shows in the log, on the page and in a terminal, and does nothing there."""

from __future__ import annotations

import html
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from tests.e2e.dashboard import PoolsSite, pools_site
from tests.e2e.sites import Site, eventually, uvicorn
from tests.servers import MariaDB, PostgreSQL

PATIENCE = 20.0
SECRET = "s3cr3t-c4n4ry"
SECONDS = 7
# A line of its own, a terminal's title, letters of UTF-8, and what turns them round.
ODD = "/hold/%0aERROR%20forged%1b]0;title%07/stra%C3%9Fe/%E2%80%AE/"
TOLD = r"GET /hold/\nERROR forged\x1b]0;title\x07/straße/\u202e/"
PATHS = [ODD, f"/hold/password={SECRET}", "/hold/" + ":" * 4_000]
POOLING = (len(PATHS), len(PATHS))
POOL = {"TIMEOUT": 0.2, "LEAK_THRESHOLD": 0.2}


@contextmanager
def all_held(site: Site) -> Iterator[None]:
    """Each of the paths has a connection, the odd one for the longest; there are no more."""
    with ThreadPoolExecutor(len(PATHS)) as visitors:
        answers = []
        for count, path in enumerate(PATHS, 1):
            answers.append(visitors.submit(site.get, f"{path}?s={SECONDS}"))
            eventually(lambda count=count: site.stats()["in_use"] == count, PATIENCE)
        yield
        assert {answer.result().status for answer in answers} == {200}


def assert_harmless(text: str) -> None:
    assert all(line.isprintable() for line in text.split("\n")), ascii(text)
    assert not any(line.startswith("ERROR forged") for line in text.split("\n")), text
    assert SECRET not in text
    assert ":" * 500 not in text


def assert_log_is_harmless(site: Site) -> None:
    eventually(lambda: site.log.count("held for") == len(PATHS), PATIENCE)
    [held] = [line for line in site.log.split("\n") if "held for" in line and "straße" in line]
    assert f"by {TOLD}" in held
    assert site.log.count("password=***") >= 1
    assert_harmless(site.log)


def test_under_wsgi_on_all_ways_to_the_operator(mariadb: MariaDB) -> None:
    with pools_site(mariadb, pooling=POOLING, processes=1, pool=POOL) as site:
        boss = site.visitor("boss")
        # The database says who that is before it can't be asked any more.
        boss.overview()
        with all_held(site.site):
            assert site.site.get("/one").status == 503
            eventually(lambda: "failed: PoolTimeout" in site.site.log, PATIENCE)
            [pool] = boss.overview()["pools"]
            [first, *_] = pool["holders"]
            assert first["who"].startswith(TOLD)
            [trouble] = pool["troubles"]
            assert f" by {TOLD}" in trouble["text"]
            for path in ("/pools/", "/pools/live/", "/pools/overview.json"):
                answer = boss.ask(path)
                assert answer.status == 200
                assert_harmless(answer.text)
            assert html.escape(TOLD) in boss.ask("/pools/").text
            for encoding, letters in (("utf-8", TOLD), ("ascii", TOLD.replace("ß", r"\xdf"))):
                terminal = {"PYTHONIOENCODING": encoding, "COLUMNS": "500"}
                done = PoolsSite(site.site, site.environment | terminal).manage("db_pools")
                assert done.returncode == 0, done.stderr
                assert f"  {letters}" in done.stdout
                assert_harmless(done.stdout)
        assert_log_is_harmless(site.site)


def test_under_asgi_in_the_log_and_in_the_error(postgresql: PostgreSQL) -> None:
    with uvicorn(postgresql, pooling=POOLING, pool=POOL) as site, all_held(site):
        answer = site.get("/one")
        assert answer.text.startswith("PoolTimeout: No connection from pool 'default'")
        assert f" by {TOLD} in thread " in answer.text
        assert_harmless(answer.text)
        eventually(lambda: "failed: PoolTimeout" in site.log, PATIENCE)
        assert_log_is_harmless(site)
