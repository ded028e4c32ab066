"""What Prometheus reads: the figures, how it starts, and under gunicorn against the server's own count."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from django_db_pooling import status_dir
from django_db_pooling.metrics import prometheus
from django_db_pooling.metrics.prometheus import Figures, PoolCollector
from django_db_pooling.pool.histogram import Durations
from django_db_pooling.pool.stats import PoolStats
from django_db_pooling.workers import reports
from django_db_pooling.workers.reports import PoolReport, Report
from tests import processes
from tests.concurrency import in_threads
from tests.conftest import require, require_module
from tests.e2e.conftest import create_rows
from tests.e2e.observer import Observer, observing
from tests.e2e.sites import Site, eventually, gunicorn
from tests.scripts import run
from tests.servers import MariaDB
from tests.slapd import Slapd

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]

REASONS = ("age", "idle", "surplus", "recycled", "broken", "unclean")
STATS = PoolStats(
    "default",
    size=10,
    max_outstanding=20,
    in_use=3,
    idle=4,
    opening=2,
    ending=1,
    waiting=5,
    checkouts=100,
    opened=30,
    closed=21,
    timeouts=6,
    shed=4,
    refused=12,
    resets=7,
    pins=8,
    reclaimed=9,
    abandoned=12,
    broken=11,
    closed_by_reason={reason: number for number, reason in enumerate(REASONS, 1)},
    waits=Durations((90, 0, 0, 0, 0, 0, 0, 9, *[0] * 6, 7), 250.5),
    helds=Durations((1,) * 15, 77.25),
    connects=Durations((0, 30, *[0] * 13), 0.06),
)
PATIENCE = 30.0


def test_every_figure_has_a_metric() -> None:
    samples = shown({7: {"default": STATS}})
    figures = {
        "size": 10,
        "max_outstanding": 20,
        "in_use": 3,
        "idle": 4,
        "free": 14,
        "opening": 2,
        "ending": 1,
        "waiting": 5,
        "paused": 0,
        "checkouts_total": 100,
        "opened_total": 30,
        "timeouts_total": 6,
        "shed_total": 4,
        "refused_total": 12,
        "resets_total": 7,
        "pins_total": 8,
        "reclaimed_total": 9,
        "abandoned_total": 12,
        "broken_total": 11,
        "wait_seconds_count": 106,
        "wait_seconds_sum": 250.5,
        "held_seconds_count": 15,
        "held_seconds_sum": 77.25,
        "connect_seconds_count": 30,
        "connect_seconds_sum": 0.06,
    }
    for name, value in figures.items():
        labels = frozenset({("alias", "default"), ("pid", "7")})
        assert samples[f"django_db_pool_{name}", labels] == value, name
    for number, reason in enumerate(REASONS, 1):
        assert one(samples, "django_db_pool_closed_total", alias="default", reason=reason) == number
    buckets = "django_db_pool_wait_seconds_bucket"
    assert [one(samples, buckets, le=le) for le in ("0.001", "0.1", "0.25", "30.0", "+Inf")] == [
        90,
        90,
        99,
        99,
        106,
    ]
    assert len(samples) == len(figures) + len(REASONS) + 3 * 15


def test_a_pause_says_how_long_it_lasts() -> None:
    samples = shown({7: {"default": replace(STATS, paused=12.5)}})
    assert one(samples, "django_db_pool_paused") == 12.5
    # Nobody gets one without waiting.
    assert one(samples, "django_db_pool_free") == 0


def test_aliases_and_processes_are_told_apart() -> None:
    directory = replace(STATS, alias="directory", in_use=1)
    samples = shown({7: {"default": STATS, "directory": directory}, 8: {"default": replace(STATS, in_use=2)}})
    assert one(samples, "django_db_pool_in_use", alias="default", pid="7") == 3
    assert one(samples, "django_db_pool_in_use", alias="directory") == 1
    assert one(samples, "django_db_pool_in_use", alias="default", pid="8") == 2


def test_no_limit_is_infinite() -> None:
    samples = shown({7: {"default": replace(STATS, max_outstanding=None)}})
    assert one(samples, "django_db_pool_max_outstanding") == math.inf
    assert one(samples, "django_db_pool_free") == math.inf


def test_what_the_host_has_is_told_where_it_has_a_limit() -> None:
    """By each process: the sum would be a multiple."""
    limited = replace(STATS, host_limit=20, host_open=17)
    samples = shown(
        {7: {"default": limited, "other": STATS}, 8: {"default": replace(limited, in_use=7, idle=0)}}
    )
    for pid in ("7", "8"):
        assert one(samples, "django_db_pool_host_limit", alias="default", pid=pid) == 20
        assert one(samples, "django_db_pool_host_open", alias="default", pid=pid) == 17
    assert one(samples, "django_db_pool_free", pid="7", alias="default") == 20 - 17 + 4
    assert one(samples, "django_db_pool_free", pid="8") == 20 - 17
    told = [(name, dict(labels)["alias"]) for name, labels in samples if "_host_" in name]
    assert sorted(set(told)) == [
        ("django_db_pool_host_limit", "default"),
        ("django_db_pool_host_open", "default"),
    ]


def test_names_follow_the_rules_of_prometheus() -> None:
    for family in PoolCollector(dict).describe():
        assert re.fullmatch(r"django_db_pool_[a-z]+(_[a-z]+)*", family.name)
        assert not family.name.endswith(("_total", "_count", "_sum", "_bucket", "_gauge"))
        assert family.documentation.endswith(".")
        assert (family.type == "histogram") is family.name.endswith("_seconds")


def test_what_is_described_is_what_is_collected() -> None:
    collector = PoolCollector(lambda: {7: {"default": STATS}})
    described = [(family.name, family.type) for family in collector.describe()]
    assert described == [(family.name, family.type) for family in collector.collect()]


# -- several processes ------------------------------------------------------------------------------

FORKS = """
import json, os, time
from django.db import connection
from prometheus_client import CollectorRegistry
from django_db_pooling.metrics import prometheus
from django_db_pooling import status_dir
from django_db_pooling.workers import reports
pooling.patch()
django.setup()
def queries(number):
    for _ in range(number):
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        connection.close()
def child(number):
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        queries(number)
        os.read(reading, 1)
        os._exit(0)
    return pid, writing
def end(pid, writing):
    os.write(writing, b".")
    os.waitpid(pid, 0)
page = CollectorRegistry()
prometheus.register(page, only_this_process={only_this_process})
def checkouts():
    [family] = [family for family in page.collect() if family.name == "django_db_pool_checkouts"]
    return sorted(sample.value for sample in family.samples)
def wait_for_reports_of(number):
    while sum(report.pools["default"].stats.checkouts for report in reports.read()) < number:
        time.sleep(0.01)
shown = []
children = [child(10), child(100)]
wait_for_reports_of(110)
shown.append(checkouts())
queries(1)
wait_for_reports_of(111)
shown.append(checkouts())
end(*children[0])
shown.append(checkouts())
end(*children[1])
print(json.dumps(shown))
"""


@pytest.mark.parametrize(
    ("only_this_process", "expected"),
    [(False, [[10, 100], [1, 10, 100], [1, 100]]), (True, [[0], [1], [1]])],
    ids=["all", "only this one"],
)
def test_processes_have_series_of_their_own_while_they_live(
    only_this_process: bool, expected: list[list[int]], tmp_path: Path
) -> None:
    """From their first query on."""
    (tmp_path / "status").mkdir(mode=0o700)
    script = FORKS.format(only_this_process=only_this_process)
    assert json.loads(run(script, tmp_path, DB_POOL_STATUS_DIR=str(tmp_path / "status"))) == expected


def test_processes_of_other_containers_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """They have pages of their own, and may have the same ids."""
    monkeypatch.setattr(status_dir, "is_on", lambda: True)
    here = Report("1-a", 1, reports.pid_space(), "gunicorn", 0.0, 0.0, {"default": PoolReport(STATS, [], [])})
    elsewhere = [replace(here, pid_space="elsewhere", id=f"{pid}-b", pid=pid) for pid in (1, 2)]
    monkeypatch.setattr(reports, "read", lambda: [here, *elsewhere])
    assert prometheus.all_processes() == {1: {"default": STATS}}


def test_the_latest_report_of_a_process_id_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a process that has ended, and another one that has got its id."""
    monkeypatch.setattr(status_dir, "is_on", lambda: True)
    old = Report("1-b", 1, reports.pid_space(), "gunicorn", 0.0, 1.0, {"default": PoolReport(STATS, [], [])})
    stats = replace(STATS, checkouts=0)
    new = replace(old, id="1-a", at=2.0, pools={"default": PoolReport(stats, [], [])})
    for found in ([old, new], [new, old]):
        monkeypatch.setattr(reports, "read", lambda found=found: found)
        assert prometheus.all_processes() == {1: {"default": stats}}


def test_threads_that_register_together_do_so_once() -> None:
    """As with the first pools of two aliases."""

    class Slow(CollectorRegistry):
        collectors = 0

        def register(self, collector: Any) -> None:
            self.collectors += 1
            time.sleep(0.05)
            super().register(collector)

    registry = Slow()
    in_threads([lambda: prometheus.register(registry)] * 4)
    assert registry.collectors == 1


def test_a_registry_that_refuses_is_asked_again() -> None:
    registry = CollectorRegistry()
    taken = Gauge("django_db_pool_size", "Somebody else's.", registry=registry)
    with pytest.raises(ValueError, match="django_db_pool_size"):
        prometheus.register(registry)
    registry.unregister(taken)
    prometheus.register(registry)
    with pytest.raises(ValueError, match="django_db_pool_size"):
        Gauge("django_db_pool_size", "Somebody else's.", registry=registry)


def test_a_counter_is_the_same_whoever_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that showed its live figures would be ahead of what others show of it."""
    monkeypatch.setattr(status_dir, "is_on", lambda: True)
    pid = os.getpid()
    mine = PoolReport(STATS, [], [])
    report = Report(f"{pid}-a", pid, reports.pid_space(), "gunicorn", 0.0, 0.0, {"default": mine})
    live = {"default": replace(STATS, checkouts=STATS.checkouts + 1)}
    monkeypatch.setattr(prometheus.pools, "all_stats", lambda: live)
    monkeypatch.setattr(prometheus.pools, "pools", lambda: ["a pool"])
    monkeypatch.setattr(reports, "read", lambda: [report])
    assert prometheus.all_processes() == {pid: {"default": STATS}}
    # Where it can't report it has only the live ones.
    monkeypatch.setattr(reports, "read", lambda: [])
    assert prometheus.all_processes() == {pid: live}
    monkeypatch.setattr(prometheus.pools, "pools", lambda: [])
    assert prometheus.all_processes() == {}
    monkeypatch.setattr(status_dir, "is_on", lambda: False)
    assert prometheus.all_processes() == {pid: live}


# -- how it starts ----------------------------------------------------------------------------------

SHOW = """
import prometheus_client
print(prometheus_client.generate_latest().decode())
"""
REGISTER = "\nfrom django_db_pooling.metrics import prometheus; prometheus.register()\n"
PATCH = "\npooling.patch()\n"


@pytest.mark.parametrize(
    ("start", "settings"),
    [
        (PATCH * 2 + "pooling.unpatch()", {"DB_POOL_METRICS": ["prometheus"]}),
        (
            "django.setup()" + PATCH,
            {
                "DB_POOL_METRICS": ("prometheus",),
                "INSTALLED_APPS": ["django_db_pooling"],
                "DB_POOL_STATUS_DIR": None,
            },
        ),
        (PATCH + REGISTER * 2, {}),
        (REGISTER + PATCH, {"DB_POOL_METRICS": ["prometheus"]}),
    ],
    ids=["setting", "app", "a line", "both"],
)
def test_it_begins_once(start: str, settings: dict[str, object], tmp_path: Path) -> None:
    samples = parsed(run(start + SHOW, tmp_path, **settings))
    assert one(samples, "django_db_pool_size", alias="default") == 10


def test_it_can_have_a_registry_of_its_own(tmp_path: Path) -> None:
    script = """
from prometheus_client import CollectorRegistry, generate_latest
from django_db_pooling.metrics import prometheus
pooling.patch()
mine = CollectorRegistry()
prometheus.register(registry=mine)
prometheus.register(registry=mine)
print(generate_latest(mine).decode())
"""
    text = run(script, tmp_path)
    assert text.count("# TYPE django_db_pool_held_seconds histogram\n") == 1


# -- a directory ------------------------------------------------------------------------------------


@pytest.fixture
def directory() -> Iterator[Slapd]:
    require(Slapd)
    require_module("ldap")
    require_module("ldapdb")
    with Slapd(users=3) as server:
        yield server


DIRECTORY = """
import datetime
# django-ldapdb 1.5 wants the name that Django 5 has dropped.
import django.utils.timezone
django.utils.timezone.utc = datetime.UTC
settings.DATABASES["directory"] = {{
    "ENGINE": "ldapdb.backends.ldap", "NAME": {uri!r}, "USER": {user!r}, "PASSWORD": {password!r},
    "POOL": {{"SIZE": 3}},
}}
pooling.patch()
django.setup()
from django.db import connections
import ldap
for _ in range(5):
    assert list(connections["directory"].search_s({base!r}, ldap.SCOPE_SUBTREE, "(uid=*)", ["uid"]))
"""


def test_a_directory_is_told_like_a_database(directory: Slapd, tmp_path: Path) -> None:
    script = DIRECTORY.format(
        uri=directory.uri, user=directory.admin_dn, password=directory.password, base=directory.people_dn
    )
    samples = parsed(run(script + SHOW, tmp_path, DB_POOL_METRICS=["prometheus"]))
    figures = {"size": 3, "idle": 1, "in_use": 0, "checkouts_total": 5, "opened_total": 1}
    figures |= {"held_seconds_count": 5, "connect_seconds_count": 1}
    for name, value in figures.items():
        assert one(samples, f"django_db_pool_{name}", alias="directory") == value, name
    assert one(samples, "django_db_pool_checkouts_total", alias="default") == 0


# -- under gunicorn, on a real server ---------------------------------------------------------------


@pytest.fixture
def observer(mariadb: MariaDB) -> Iterator[Observer]:
    if not mariadb.execute("SHOW DATABASES LIKE 'e2e'"):
        create_rows(mariadb)
    with observing(mariadb) as observer:
        yield observer


@pytest.mark.timeout(120)
def test_one_process_beside_django_prometheus(mariadb: MariaDB, observer: Observer) -> None:
    with gunicorn(mariadb, pooling=(2, 4), module="tests.site.metrics") as site:
        assert {answer.status for answer in site.get_all(["/hold?s=0.3"] * 8)} == {200}
        samples = scrape(site)
        assert any(name.startswith("python_info") for name, _ in samples)
        assert one(samples, "django_db_pool_checkouts_total") == 8
        assert one(samples, "django_db_pool_wait_seconds_count") == 8
        assert one(samples, "django_db_pool_held_seconds_count") == 8
        assert one(samples, "django_db_pool_held_seconds_sum") >= 8 * 0.3
        assert one(samples, "django_db_pool_connect_seconds_count") == observer.connections()
        assert one(samples, "django_db_pool_idle") == observer.connections()
        assert one(samples, "django_db_pool_free") == 4


@pytest.mark.timeout(240)
@pytest.mark.parametrize("multiprocess", [False, True], ids=["registry", "multi-process mode"])
def test_two_workers_add_up_to_what_the_server_counts(
    multiprocess: bool,
    mariadb: MariaDB,
    observer: Observer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if multiprocess:
        monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    arguments = ["--workers=2", "--keep-alive=60"]
    status_dir = tmp_path / "status"
    status_dir.mkdir()
    settings = {"module": "tests.site.metrics", "status_dir": str(status_dir)}
    with gunicorn(mariadb, pooling=(4, 8), arguments=arguments, **settings) as site:
        load = site.load("/one", "/atomic", clients=60, seconds=8)
        scrapes = []
        while load.process.poll() is None:
            scrapes.append(scrape(site))
            time.sleep(0.5)
        report = load.report()
        assert report["failed"] == {}
        answered = report["answered"]["200"]

        # Nothing goes back, whichever worker answers.
        assert len(scrapes) > 4
        scrapes.append(scrape(site))
        highest: Samples = {}
        for samples in scrapes:
            for (name, labels), value in samples.items():
                if name.startswith("django_db_pool") and name.endswith(
                    ("_total", "_count", "_bucket", "_sum")
                ):
                    assert value >= highest.get((name, labels), 0.0), (name, labels)
                    highest[name, labels] = value

        # All is counted, and what is open is what the server says.
        workers = processes.family(site.pid)[1:]
        for name in ("checkouts_total", "held_seconds_count", "wait_seconds_count"):
            eventually(lambda name=name: total(scrape(site), name) == answered, PATIENCE)
        eventually(lambda: is_open(scrape(site)) == observer.connections() > 0, PATIENCE)
        samples = scrape(site)
        assert total(samples, "in_use") == 0
        assert total(samples, "max_outstanding") == 2 * 8
        assert total(samples, "free") == 2 * 8
        for worker in workers:
            assert one(samples, "django_db_pool_max_outstanding", pid=str(worker)) == 8
        # The site's own metric is there, too.
        assert one(samples, "site_workers_total") == (2 if multiprocess else 1)

        # A worker is killed, and nothing of it is shown any more.
        victim, other = workers
        checkouts = one(samples, "django_db_pool_checkouts_total", pid=str(other))
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: victim not in processes.family(site.pid), PATIENCE)
        after = scrape(site)
        assert total(after, "checkouts_total") == checkouts
        assert total(after, "max_outstanding") == 8
        eventually(lambda: is_open(scrape(site)) == observer.connections() > 0, PATIENCE)

        # A new worker has taken its place.
        eventually(lambda: len(processes.family(site.pid)) == 3, PATIENCE)

        def both_have_a_pool() -> bool:
            site.get_all(["/hold?s=0.1"] * 8)
            return total(scrape(site), "max_outstanding") == 2 * 8

        eventually(both_have_a_pool, PATIENCE)
        eventually(lambda: is_open(scrape(site)) == observer.connections() > 0, PATIENCE)


# -- helpers ----------------------------------------------------------------------------------------


def is_open(samples: Samples) -> float:
    return sum(total(samples, state) for state in ("in_use", "idle", "opening", "ending"))


def total(samples: Samples, name: str) -> float:
    """Of all processes."""
    return sum(value for (of, _), value in samples.items() if of == f"django_db_pool_{name}")


def scrape(site: Site) -> Samples:
    answer = site.get("/metrics")
    assert answer.status == 200, answer
    return parsed(answer.text)


def shown(figures: Figures) -> Samples:
    registry = CollectorRegistry()
    registry.register(PoolCollector(lambda: figures))
    return parsed(generate_latest(registry).decode())


def parsed(text: str) -> Samples:
    """By name and labels; without the moments at which the library began to count."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def one(samples: Samples, name: str, **labels: str) -> float:
    """The value of the one that has these labels."""
    values = [
        value for (of, having), value in samples.items() if of == name and having >= frozenset(labels.items())
    ]
    assert len(values) == 1, (name, labels, values)
    return values[0]
