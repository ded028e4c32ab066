"""An overview as people read it: words, a table, charts, a plan."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from django_db_pooling.capacity import Demand, Limit, Server, Share
from django_db_pooling.dashboard import presentation
from django_db_pooling.dashboard.charts import HEIGHT, WIDTH, _round_up, bar, charts
from django_db_pooling.management import plan
from django_db_pooling.management.table import COLUMNS, table
from django_db_pooling.workers import humanize
from tests.unit.test_overview import NOW, durations, pool_report, report, sample, seen


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, "–"),
        (0.0, "0 ms"),
        (0.0004, "< 1 ms"),
        (0.0042, "4.2 ms"),
        (0.42, "420 ms"),
        (0.9996, "1.0 s"),
        (4.2, "4.2 s"),
        (42.4, "42 s"),
        (250.0, "4 min"),
    ],
)
def test_durations(seconds: float | None, said: str) -> None:
    assert humanize.duration(seconds) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.9, "0 s"), (119, "119 s"), (130, "2 min"), (7200, "2 h"), (7500, "2 h 5 min"), (349_300, "4 d 1 h")],
)
def test_ages(seconds: float, said: str) -> None:
    assert humanize.age(seconds) == said


@pytest.mark.parametrize(
    ("value", "said"), [(None, "–"), (0, "0"), (0.2, "0.2"), (99.97, "100"), (1234, "1,234")]
)
def test_rates(value: float | None, said: str) -> None:
    assert humanize.rate(value) == said


def busy(**stats: Any) -> Any:
    history = [sample(NOW - 5 * n, in_use=n, checkouts=1000 - 10 * n) for n in range(60, 0, -1)]
    return pool_report(
        held=[(4.0, "GET /a/very/long/path" * 9 + " in thread Dummy-1")],
        troubles=[
            (3.0, "timeout", "CheckoutTimeout: No connection from pool 'default':\nwaited" + " x" * 99)
        ],
        history=history,
        waits=durations(b3=5),
        **stats,
    )


def test_a_table_fits_into_a_terminal() -> None:
    text = table(
        seen(
            report(4_194_304, default=busy(in_use=10, waiting=12_345)),
            report(2, default=busy(idle=3, max_outstanding=None), a_name_of_many_letters_is_cut=busy()),
        )
    )
    assert max(map(len, text.splitlines())) <= COLUMNS
    assert "2 processes at " in text
    assert re.search(r"^  total +10 +3 +0 +12345 +any +none +4\.0$", text, re.MULTILINE)
    assert "longest held:  4.0 s" in text


def shared(**stats: Any) -> Any:
    """Of one of two processes with a HOST_LIMIT of 20."""
    return pool_report(max_outstanding=20, host_limit=20, host_open=17, **stats)


def test_a_table_says_how_much_of_the_host_limit_is_open() -> None:
    lines = table(
        seen(report(1, default=shared(in_use=9, idle=1)), report(2, default=shared(in_use=7)))
    ).splitlines()
    assert re.fullmatch(r"  total +16 +1 +0 +0 +4 +20 +-", lines[3])
    assert re.fullmatch(r"  1 gunicorn +9 +1 +0 +0 +4 +20 +-", lines[4])
    assert lines[6] == "  this host: 17 open of 20 (HOST_LIMIT)"
    unused = table(seen(report(1, default=pool_report(host_limit=20))))
    assert "\n  this host: at most 20 open (HOST_LIMIT)\n" in unused
    assert "this host" not in table(seen(report(1, default=pool_report())))


VISITOR: Any = SimpleNamespace(name="boss", may_act=True, may_resume=True, seen=None)


def on_page(*pools: Any) -> Any:
    """What a page shows of a pool."""
    overview = seen(*(report(pid, default=pool) for pid, pool in enumerate(pools, 1)))
    return presentation._pool(overview.pools[0], overview, VISITOR)


def test_a_page_says_how_much_of_the_host_limit_is_open() -> None:
    shown = on_page(shared(in_use=9, idle=1), shared(in_use=7))
    assert shown["limits"] == (
        "2 processes, each with size 5 and max_outstanding 20; this host: 17 open of 20 (HOST_LIMIT)"
    )
    assert shown["summary"] == "16 in use, 0 opening, 1 idle, 3 not opened"
    assert [segment.width for segment in shown["segments"]] == ["800.0", "0.0", "50.0", "150.0"]
    assert (shown["free"], shown["is_full"]) == ("4", False)
    full = on_page(shared(in_use=9), shared(in_use=11))
    assert (full["free"], full["is_full"]) == ("0", True)
    # What they may have by themselves is less.
    few = on_page(*[pool_report(max_outstanding=4, host_limit=20, host_open=2, in_use=1)] * 2)
    assert few["limits"] == (
        "2 processes, each with size 5 and max_outstanding 4: 8 connections in total; "
        "this host: 2 open of 20 (HOST_LIMIT)"
    )
    assert few["summary"] == "2 in use, 0 opening, 0 idle, 6 not opened"
    # Others, which don't report, have five: the bar has a gap.
    others = on_page(pool_report(max_outstanding=20, host_limit=20, host_open=8, in_use=3))
    assert others["summary"] == "3 in use, 0 opening, 0 idle, 12 not opened"
    assert sum(float(segment.width) for segment in others["segments"]) == 750.0
    assert on_page(pool_report())["limits"] == (
        "1 process, each with size 5 and max_outstanding 10: 10 connections in total"
    )


def test_the_line_of_a_chart_is_at_the_host_limit() -> None:
    pool = seen(report(1, default=shared(in_use=20)), report(2, default=shared())).pools[0]
    assert charts(pool)[0].limit == "4.0"


def test_charts_stay_inside_of_their_boxes() -> None:
    pool = seen(report(1, default=busy(in_use=10)), report(2, default=busy())).pools[0]
    made = charts(pool)
    assert [chart.name for chart in made] == ["in-use", "checkouts", "opened", "wait", "held"]
    for chart in made:
        for points in [*chart.lines, *chart.areas, *chart.others]:
            for point in points.split():
                x, y = map(float, point.split(","))
                assert 0 <= x <= WIDTH
                assert 0 <= y <= HEIGHT


def test_what_is_no_event_does_not_fill_a_chart() -> None:
    history = [sample(NOW - 30 + 5 * n, checkouts=n, opened=n, wait_seconds=n * 1e-4) for n in range(6)]
    _, checkouts, _, wait, _ = charts(seen(report(1, default=pool_report(history=history))).pools[0])
    assert (checkouts.most, checkouts.top) == ("0.2", "1.0")
    assert (wait.most, wait.top) == ("< 1 ms", "10 ms")
    for line in [*wait.lines, *checkouts.lines]:
        assert all(float(point.split(",")[1]) > 0.7 * HEIGHT for point in line.split())


@pytest.mark.parametrize(
    ("most", "top"), [(1.0, 1.0), (1.01, 2.0), (2.5, 5.0), (5.1, 10.0), (0.03, 0.05), (99, 100)]
)
def test_a_scale_ends_at_a_round_number(most: float, top: float) -> None:
    assert _round_up(most) == pytest.approx(top)


def test_a_line_has_a_gap_where_nothing_is_known() -> None:
    counts = [0, 5, 5, 5, 9, 12]
    history = [
        sample(NOW - 60 + 5 * n, checkouts=count, wait_seconds=count) for n, count in enumerate(counts)
    ]
    pool = seen(report(1, default=pool_report(history=history))).pools[0]
    wait = charts(pool)[3]
    assert len(wait.lines) == len(wait.areas) == 2
    assert wait.now == wait.most == "1.0 s"


def test_charts_of_a_pool_without_a_past() -> None:
    pool = seen(report(1, default=pool_report(max_outstanding=None))).pools[0]
    assert all(not chart.lines and chart.limit is None for chart in charts(pool))


def test_a_bar_is_filled_by_what_there_is() -> None:
    segments = bar({"in_use": ("in use", 3), "idle": ("idle", 1)}, 8)
    assert [(segment.x, segment.width) for segment in segments] == [("0.0", "375.0"), ("375.0", "125.0")]
    # More than allowed, after a limit was lowered.
    assert bar({"in_use": ("in use", 20)}, 10)[0].width == "1000.0"
    assert bar({"in_use": ("in use", 0)}, 0)[0].width == "0.0"


LIMIT = Limit(97, "max_connections 100, less 3 reserved")
SERVER = Server("postgresql", "db", "5432")


def test_a_plan_that_fits() -> None:
    demand = Demand(LIMIT, [Share("default", 10), Share("other", 2, is_reported=False)], hosts=2, workers=4)
    assert demand.fits
    assert plan.lines(SERVER, demand) == [
        "PostgreSQL at db:5432",
        "  limit         97 (max_connections 100, less 3 reserved)",
        "  each process  default 10, other 2 (from settings)",
        "  total         2 x 4 x 12 = 96 (hosts x processes x connections)",
        "  fits          leaves 1 for others",
    ]


@pytest.mark.parametrize(
    ("each", "said"),
    [
        (20, "  does not fit  63 too many; 12 per process would fit"),
        (None, "  total         unlimited: does not fit, set MAX_OUTSTANDING or HOST_LIMIT"),
    ],
)
def test_a_plan_that_does_not_fit(each: int | None, said: str) -> None:
    demand = Demand(LIMIT, [Share("default", each)], hosts=2, workers=4)
    assert not demand.fits
    assert plan.lines(SERVER, demand)[-1] == said


def test_a_server_that_accepts_nobody() -> None:
    nobody = Limit(-2, "max_connections 1, less 3 reserved")
    for share, what in ((Share("default", 10, minimum=1), "process"), (Share("default", 10, 1, 10), "host")):
        demand = Demand(nobody, [share], hosts=1, workers=1)
        assert not demand.fits
        assert demand.fitting == 0
        assert plan.lines(SERVER, demand)[-1] == f"  does not fit  10 too many; 0 per {what} would fit"


# -- plans with a HOST_LIMIT ---------------------------------------------------------------------------

SHARED = Share("default", 40, host_limit=40)
TWO, OTHER = Share("two", 2, host_limit=20), Share("other", 5)
# Those whose processes can't reach HOST_LIMIT count by process.
EACH_TWO = "two 2 (4 x 2 is less than HOST_LIMIT 20)"


@pytest.mark.parametrize(
    ("shares", "workers", "total", "said"),
    [
        pytest.param(
            [SHARED],
            None,
            80,
            [
                "  each host     default 40 (HOST_LIMIT)",
                "  total         2 x 40 = 80 (hosts x HOST_LIMIT)",
                "  fits          leaves 17 for others",
            ],
            id="all of it, and nobody knows how many processes there are",
        ),
        pytest.param(
            [SHARED, Share("unbounded", None, host_limit=9, is_reported=False)],
            8,
            98,
            [
                "  each host     default 40 (HOST_LIMIT, less than 8 x 40), "
                "unbounded 9 (from settings) (HOST_LIMIT)",
                "  total         2 x 49 = 98 (hosts x HOST_LIMIT)",
                "  does not fit  1 too many; 48 per host would fit",
            ],
            id="two of them",
        ),
        pytest.param(
            [SHARED],
            1,
            80,
            [
                "  each host     default 40 (HOST_LIMIT)",
                "  total         2 x 40 = 80 (hosts x HOST_LIMIT)",
                "  fits          leaves 17 for others",
            ],
            id="one process that may have all of it",
        ),
        pytest.param(
            [TWO],
            4,
            16,
            [
                f"  each process  {EACH_TWO}",
                "  total         2 x 4 x 2 = 16 (hosts x processes x connections)",
                "  fits          leaves 81 for others",
            ],
            id="more than the processes may open",
        ),
        pytest.param(
            [SHARED, OTHER, TWO],
            4,
            2 * (40 + 4 * 7),
            [
                "  each host     default 40 (HOST_LIMIT, less than 4 x 40)",
                f"  each process  other 5, {EACH_TWO}",
                "  total         2 x (40 + 4 x 7) = 136 (hosts x (HOST_LIMIT + processes x connections))",
                "  does not fit  39 too many",
            ],
            id="some of each",
        ),
        pytest.param(
            [SHARED, Share("other", None)],
            4,
            None,
            [
                "  each host     default 40 (HOST_LIMIT, less than 4 x 40)",
                "  each process  other unlimited",
                "  total         unlimited: does not fit, set MAX_OUTSTANDING or HOST_LIMIT",
            ],
            id="beside one without a limit",
        ),
    ],
)
def test_a_plan_with_a_host_limit(
    shares: list[Share], workers: int | None, total: int | None, said: list[str]
) -> None:
    demand = Demand(LIMIT, shares, hosts=2, workers=workers)
    assert demand.total == total
    assert demand.fits is (total is not None and total <= 97)
    assert plan.lines(SERVER, demand)[2:] == said


def test_min_size_is_within_the_host_limit() -> None:
    shares = [Share("default", 20, 5, 12), Share("other", 5, 1), Share("third", 20, 1, 12)]
    assert Demand(LIMIT, shares, hosts=2, workers=4).minimum == 2 * (12 + 4 + 4)
    assert Demand(LIMIT, shares, hosts=2, workers=None).minimum == 0


def test_a_plan_goes_by_what_running_processes_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was started before there was a HOST_LIMIT has none."""
    asked: dict[str, Any] = {}
    monkeypatch.setattr(plan.capacity, "servers", lambda reported: asked.update(reported) or {})
    one = pool_report(max_outstanding=20, host_limit=20)
    two = pool_report(max_outstanding=15, host_limit=20)
    plan.servers(seen(report(1, default=one, other=one), report(2, default=two, other=pool_report())))
    assert asked == {"default": (20, 20), "other": (20, None)}


def test_the_number_of_processes_matters_for_those_without_a_host_limit() -> None:
    assert not plan.needs_workers([SHARED, TWO])
    assert plan.needs_workers([SHARED, OTHER])
