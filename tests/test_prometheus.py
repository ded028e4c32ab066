"""What Prometheus is told: the figures, how it starts, and under gunicorn against the server's own count."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families

from django_db_pooling.metrics.prometheus import Mirror, PoolCollector, _add
from django_db_pooling.pool.histogram import BOUNDS, Durations
from django_db_pooling.pool.stats import PoolStats
from tests import processes
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
    waiting=5,
    checkouts=100,
    opened=30,
    closed=21,
    timeouts=6,
    resets=7,
    pins=8,
    reclaimed=9,
    broken=11,
    closed_by_reason={reason: number for number, reason in enumerate(REASONS, 1)},
    waits=Durations((90, 0, 0, 0, 0, 0, 0, 9, *[0] * 6, 7), 250.5),
    helds=Durations((1,) * 15, 77.25),
    connects=Durations((0, 30, *[0] * 13), 0.06),
)
PATIENCE = 30.0


def test_every_figure_has_a_metric() -> None:
    samples = told({"default": STATS})
    figures = {
        "size": 10,
        "max_outstanding": 20,
        "in_use": 3,
        "idle": 4,
        "free": 15,
        "opening": 2,
        "waiting": 5,
        "checkouts_total": 100,
        "opened_total": 30,
        "timeouts_total": 6,
        "resets_total": 7,
        "pins_total": 8,
        "reclaimed_total": 9,
        "broken_total": 11,
        "wait_seconds_count": 106,
        "wait_seconds_sum": 250.5,
        "held_seconds_count": 15,
        "held_seconds_sum": 77.25,
        "connect_seconds_count": 30,
        "connect_seconds_sum": 0.06,
    }
    for name, value in figures.items():
        assert samples[f"django_db_pool_{name}", frozenset({("alias", "default")})] == value, name
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


def test_aliases_are_told_apart() -> None:
    samples = told({"default": STATS, "directory": replace(STATS, alias="directory", in_use=1)})
    assert one(samples, "django_db_pool_in_use", alias="default") == 3
    assert one(samples, "django_db_pool_in_use", alias="directory") == 1


def test_no_limit_is_infinite() -> None:
    samples = told({"default": replace(STATS, max_outstanding=None)})
    assert one(samples, "django_db_pool_max_outstanding") == math.inf
    assert one(samples, "django_db_pool_free") == math.inf


def test_names_follow_the_rules_of_prometheus() -> None:
    for family in PoolCollector(dict).describe():
        assert re.fullmatch(r"django_db_pool_[a-z]+(_[a-z]+)*", family.name)
        assert not family.name.endswith(("_total", "_count", "_sum", "_bucket", "_gauge"))
        assert family.documentation.endswith(".")
        assert (family.type == "histogram") is family.name.endswith("_seconds")


def test_what_is_described_is_what_is_collected() -> None:
    collector = PoolCollector(lambda: {"default": STATS})
    described = [(family.name, family.type) for family in collector.describe()]
    assert described == [(family.name, family.type) for family in collector.collect()]


# -- the library's own metrics, for its multi-process mode ------------------------------------------


def test_the_mirror_has_the_same_figures_whatever_happened_between_two_ticks() -> None:
    later = STATS.plus(replace(STATS, in_use=0, idle=1, waiting=0))
    now: dict[str, PoolStats] = {"default": STATS}
    mirror = Mirror(lambda: now)
    registry = CollectorRegistry()
    for metric in mirror.metrics:
        registry.register(metric)
    for stats in (STATS, STATS, later):
        now = {"default": stats, "other": PoolStats("other", 5, None)}
        mirror.tick()
        assert read(registry) == told(now)
    mirror.end()
    assert one(read(registry), "django_db_pool_max_outstanding", alias="default") == 0
    assert one(read(registry), "django_db_pool_checkouts_total", alias="default") == later.checkouts


def test_observations_that_are_added_at_once_are_as_those_that_were_made_one_by_one() -> None:
    """Of the library only ``observe`` is public."""
    one_by_one, at_once = (
        Histogram("it_seconds", "It.", registry=None, buckets=BOUNDS),
        Histogram("it_seconds", "It.", registry=None, buckets=BOUNDS),
    )
    # What can be added in binary without rounding.
    durations = [0.0, 0.0009765625, 0.25, 0.25, 0.5, 29.0, 31.0, 1000.0]
    for seconds in durations:
        one_by_one.observe(seconds)
    counts = [0] * 15
    for seconds in durations:
        counts[next((i for i, bound in enumerate(BOUNDS) if seconds <= bound), 14)] += 1
    _add(at_once, Durations(tuple(counts), sum(durations)), Durations())
    assert plain(at_once) == plain(one_by_one)
    _add(at_once, Durations(tuple(counts), sum(durations)), Durations(tuple(counts), sum(durations)))
    assert plain(at_once) == plain(one_by_one)


FORKS = """
import os
from django.db import connection
pooling.patch()
django.setup()
def queries(number):
    for _ in range(number):
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    from django_db_pooling.metrics import exporters
    exporters.tick()
queries(1)
for number in (10, 100):
    if not os.fork():
        queries(number)
        os._exit(0)
    os.wait()
from prometheus_client import CollectorRegistry, generate_latest, multiprocess
registry = CollectorRegistry()
multiprocess.MultiProcessCollector(registry)
print(generate_latest(registry).decode())
"""


def test_forks_add_up_in_the_multi_process_mode(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    samples = parsed(run(FORKS, tmp_path, variables={"PROMETHEUS_MULTIPROC_DIR": str(files)}))
    assert one(samples, "django_db_pool_checkouts_total") == 111
    assert one(samples, "django_db_pool_held_seconds_count") == 111
    assert one(samples, "django_db_pool_held_seconds_bucket", le="+Inf") == 111
    assert one(samples, "django_db_pool_size") == 3 * 10
    assert one(samples, "django_db_pool_max_outstanding") == 3 * 20


# -- how it starts ----------------------------------------------------------------------------------

SHOW = """
import prometheus_client
print(prometheus_client.generate_latest().decode())
"""


@pytest.mark.parametrize(
    "start",
    [
        "pooling.patch(); pooling.patch(); pooling.unpatch()",
        "settings.INSTALLED_APPS = ['django_db_pooling']; django.setup(); pooling.patch()",
        "pooling.patch()\nfrom django_db_pooling.metrics import prometheus; prometheus.register()",
        "from django_db_pooling.metrics import prometheus; prometheus.register(); pooling.patch()",
    ],
)
def test_it_begins_by_itself_and_once(start: str, tmp_path: Path) -> None:
    text = run(start + SHOW, tmp_path)
    assert text.count('django_db_pool_size{alias="default"} 10.0\n') == 1


def test_it_can_be_switched_off(tmp_path: Path) -> None:
    assert "django_db_pool" not in run("pooling.patch()" + SHOW, tmp_path, DB_POOL_METRICS=False)


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
    for variables in ({}, {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}):
        text = run(script, tmp_path, variables=variables, DB_POOL_METRICS=False)
        assert "# TYPE django_db_pool_held_seconds histogram\n" in text


def test_nothing_is_imported_where_it_is_not_wanted_or_not_installed(tmp_path: Path) -> None:
    show = """
print([name for name in sys.modules if name.split(".")[0] in ("prometheus_client", "opentelemetry")])
"""
    assert run("pooling.patch()" + show, tmp_path, DB_POOL_METRICS=False) == "[]\n"
    hide = "sys.modules['prometheus_client'] = sys.modules['opentelemetry'] = None\npooling.patch()\n"
    assert run(hide + "print('goes on')", tmp_path) == "goes on\n"
    # The library alone, without somebody who uses it, is not even imported.
    assert "opentelemetry" not in run("pooling.patch()" + show, tmp_path)


def test_trouble_with_metrics_is_none_for_the_site(tmp_path: Path) -> None:
    script = """
from django.db import connection
pooling.patch()
connection.ensure_connection()
from django_db_pooling.metrics import exporters
exporters.tick()
print("goes on")
"""
    missing = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "missing")}
    assert run(script, tmp_path, variables=missing) == "goes on\n"


def test_settings_that_come_after_patch(tmp_path: Path) -> None:
    """The first pool finds them."""
    script = f"""
import os, sys
from django_db_pooling import pooling
pooling.patch()
assert "prometheus_client" not in sys.modules
from django.conf import settings
settings.configure(DATABASES={{"default": {{"ENGINE": "django.db.backends.sqlite3",
                                        "NAME": {str(tmp_path / "later.sqlite3")!r}}}}})
from django.db import connection
connection.ensure_connection()
{SHOW}
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, text=True, capture_output=True, timeout=PATIENCE, check=True)
    assert 'django_db_pool_checkouts_total{alias="default"} 1.0\n' in done.stdout


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
    samples = parsed(run(script + SHOW, tmp_path))
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
def test_two_workers_add_up_to_what_the_server_counts(
    mariadb: MariaDB, observer: Observer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    arguments = ["--workers=2", "--keep-alive=60", "--config=python:tests.site.child_exit"]
    with gunicorn(mariadb, pooling=(4, 8), arguments=arguments, module="tests.site.metrics") as site:
        load = site.load("/one", "/atomic", clients=60, seconds=8)
        scrapes = []
        while load.process.poll() is None:
            scrapes.append(scrape(site))
            time.sleep(0.5)
        report = load.report()
        assert report["failed"] == {}
        answered = report["answered"]["200"]

        # Nothing goes back.
        assert len(scrapes) > 4
        scrapes.append(scrape(site))
        for before, after in pairwise(scrapes):
            for (name, labels), value in before.items():
                if name.startswith("django_db_pool") and name.endswith(
                    ("_total", "_count", "_bucket", "_sum")
                ):
                    assert after[name, labels] >= value, (name, labels)

        # All is counted, and what is open is what the server says.
        for name in ("checkouts_total", "held_seconds_count", "wait_seconds_count"):
            eventually(lambda name=name: one(scrape(site), f"django_db_pool_{name}") == answered, PATIENCE)
        eventually(lambda: is_open(scrape(site)) == observer.connections() > 0, PATIENCE)
        assert one(scrape(site), "django_db_pool_in_use") == 0
        assert one(scrape(site), "django_db_pool_max_outstanding") == 2 * 8
        assert one(scrape(site), "django_db_pool_free") == 2 * 8

        # A worker is killed: its connections are gone, and its gauges; its counts stay.
        victim, other = processes.family(site.pid)[1:]
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: victim not in processes.family(site.pid), PATIENCE)
        eventually(lambda: not list(tmp_path.glob(f"gauge_*_{victim}.db")), PATIENCE)
        after = scrape(site)
        assert one(after, "django_db_pool_checkouts_total") == answered
        assert one(after, "django_db_pool_max_outstanding") == 8
        eventually(lambda: is_open(scrape(site)) == observer.connections() > 0, PATIENCE)

        # A new worker has taken its place.
        eventually(lambda: len(processes.family(site.pid)) == 3, PATIENCE)

        def both_have_a_pool() -> bool:
            site.get_all(["/hold?s=0.1"] * 8)
            return one(scrape(site), "django_db_pool_max_outstanding") == 2 * 8

        eventually(both_have_a_pool, PATIENCE)
        eventually(lambda: is_open(scrape(site)) == observer.connections() > 0, PATIENCE)
    # All have ended in order.
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(tmp_path))
    samples = parsed(generate_latest(registry).decode())
    opened = sum(value for (name, _), value in samples.items() if name == "django_db_pool_opened_total")
    assert opened > 0
    assert not any(name in ("django_db_pool_idle", "django_db_pool_size") for name, _ in samples)


# -- helpers ----------------------------------------------------------------------------------------


def is_open(samples: Samples) -> float:
    return sum(one(samples, f"django_db_pool_{state}") for state in ("in_use", "idle", "opening"))


def scrape(site: Site) -> Samples:
    answer = site.get("/metrics")
    assert answer.status == 200, answer
    return parsed(answer.text)


def told(stats: Mapping[str, PoolStats]) -> Samples:
    """What Prometheus is told of these figures."""
    registry = CollectorRegistry()
    registry.register(PoolCollector(lambda: stats))
    return read(registry)


def read(registry: CollectorRegistry) -> Samples:
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


def plain(histogram: Histogram) -> list[tuple[str, str, float]]:
    return [
        (sample.name, json.dumps(sample.labels), sample.value)
        for family in histogram.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    ]
