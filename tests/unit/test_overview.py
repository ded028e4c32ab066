"""Reports of several processes, added up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from django_db_pooling.pool.histogram import BOUNDS, Durations
from django_db_pooling.pool.stats import PoolStats
from django_db_pooling.workers.commands import Action, Command
from django_db_pooling.workers.overview import Overview, picture
from django_db_pooling.workers.reports import SAMPLES, PoolReport, Report, Sample

NOW = 10_000.0


def durations(**buckets: int) -> Durations:
    """``b3=7``: seven in the bucket up to BOUNDS[3]."""
    counts = [buckets.get(f"b{number}", 0) for number in range(len(BOUNDS) + 1)]
    return Durations(tuple(counts), float(sum(counts)))


def sample(at: float, **values: float) -> Sample:
    nothing = dict.fromkeys(
        ("in_use", "waiting", "checkouts", "opened", "timeouts", "wait_seconds", "held_seconds"), 0
    )
    return Sample(at=at, **{**nothing, **values})  # type: ignore[arg-type]


def pool_report(
    held: list[tuple[float, str]] | None = None,
    troubles: list[tuple[float, str, str]] | None = None,
    history: list[Sample] | None = None,
    waits: Durations | None = None,
    max_outstanding: int | None = 10,
    **stats: int,
) -> PoolReport:
    return PoolReport(
        stats=PoolStats("default", 5, max_outstanding, **stats),
        held=held or [],
        troubles=troubles or [],
        history=history or [],
        waits=waits or Durations(),
    )


def report(pid: int, at: float = NOW, started_at: float = NOW - 100, **pools: PoolReport) -> Report:
    return Report(str(pid), pid, "here", "gunicorn", started_at, at, pools)


def seen(*reports: Report, commands: tuple[Command, ...] = ()) -> Overview:
    return picture(list(reports), commands, NOW)


def test_nobody() -> None:
    assert seen() == Overview(NOW, [], [], [])
    assert seen().waiting == 0


def test_counts_and_limits_are_added_up() -> None:
    overview = seen(
        report(1, default=pool_report(in_use=9, idle=1, waiting=3, checkouts=70)),
        report(2, default=pool_report(in_use=2, opening=1, checkouts=7)),
    )
    (pool,) = overview.pools
    assert (pool.total.in_use, pool.total.idle, pool.total.opening, pool.total.waiting) == (11, 1, 1, 3)
    assert (pool.total.size, pool.total.max_outstanding, pool.total.checkouts) == (10, 20, 77)
    assert (pool.free, pool.unopened) == (8, 7)
    assert [member.stats.in_use for member in pool.members] == [9, 2]
    assert overview.waiting == 3


def test_what_one_has_too_many_of_is_not_free_in_another() -> None:
    """After a limit was lowered."""
    (pool,) = seen(report(1, default=pool_report(in_use=15)), report(2, default=pool_report(in_use=4))).pools
    assert pool.free == 6


def test_without_a_limit() -> None:
    (pool,) = seen(
        report(1, default=pool_report(max_outstanding=None, in_use=3)), report(2, default=pool_report())
    ).pools
    assert (pool.total.max_outstanding, pool.free, pool.unopened) == (None, None, None)


def test_two_processes_with_one_host_limit() -> None:
    """Each could have all of what the other has not; together they can't."""
    one = pool_report(max_outstanding=20, host_limit=20, host_open=17, in_use=9, idle=1)
    two = pool_report(max_outstanding=20, host_limit=20, host_open=17, in_use=4, idle=2, opening=1)
    assert (one.stats.free, two.stats.free) == (4, 5)
    (pool,) = seen(report(1, default=one), report(2, default=two)).pools
    assert (pool.total.host_limit, pool.total.host_open) == (20, 17)
    assert (pool.total.max_outstanding, pool.free, pool.unopened) == (20, 6, 3)
    (told,) = seen(report(1, default=one), report(2, default=two)).as_dict()["pools"]
    assert [told["total"][name] for name in ("host_limit", "host_open", "max_outstanding")] == [20, 17, 20]
    assert told["free"] == 6


def test_what_the_processes_may_have_by_themselves_can_be_less_than_the_host_limit() -> None:
    one = pool_report(max_outstanding=4, host_limit=20, host_open=3, in_use=3)
    two = pool_report(max_outstanding=5, host_limit=20, host_open=3)
    (pool,) = seen(report(1, default=one), report(2, default=two)).pools
    assert (pool.total.max_outstanding, pool.free, pool.unopened) == (9, 6, 6)


def test_a_host_limit_bounds_processes_without_a_limit_of_their_own() -> None:
    one = pool_report(max_outstanding=None, host_limit=20, host_open=3, in_use=3)
    two = pool_report(max_outstanding=None, host_limit=20, host_open=3)
    (pool,) = seen(report(1, default=one), report(2, default=two)).pools
    assert (pool.total.max_outstanding, pool.free, pool.unopened) == (20, 17, 17)


def test_what_processes_that_do_not_report_have_open_is_not_free() -> None:
    one = pool_report(max_outstanding=20, host_limit=20, host_open=16, in_use=3, idle=2)
    (pool,) = seen(report(1, default=one)).pools
    assert (pool.total.host_open, pool.free, pool.unopened) == (16, 6, 4)


def test_the_latest_report_says_what_the_host_has_open() -> None:
    old = pool_report(host_limit=20, host_open=20, in_use=1)
    new = pool_report(host_limit=20, host_open=3, in_use=2)
    (pool,) = seen(report(1, at=NOW - 3, default=old), report(2, default=new)).pools
    assert (pool.total.host_open, pool.free) == (3, 8)


def test_a_process_that_has_not_used_an_alias_knows_its_host_limit_only() -> None:
    idle = pool_report(max_outstanding=20, host_limit=20)
    (pool,) = seen(report(1, default=idle)).pools
    assert (pool.total.host_open, pool.free, pool.unopened) == (None, 20, 20)
    used = pool_report(max_outstanding=20, host_limit=20, host_open=2, in_use=2)
    (pool,) = seen(report(1, default=idle), report(2, default=used)).pools
    assert (pool.total.host_open, pool.free, pool.unopened) == (2, 18, 18)


def test_while_a_host_limit_is_introduced_or_lowered() -> None:
    """Who was started before has none, or the former one, and the lower one counts."""
    before = pool_report(max_outstanding=10, in_use=4)
    after = pool_report(max_outstanding=30, host_limit=6, host_open=5, in_use=5)
    (pool,) = seen(report(1, default=before), report(2, default=after)).pools
    assert (pool.total.host_limit, pool.total.max_outstanding, pool.free) == (6, 16, 7)
    unlimited = pool_report(max_outstanding=None)
    (pool,) = seen(report(1, default=unlimited), report(2, default=after)).pools
    assert (pool.total.max_outstanding, pool.free, pool.unopened) == (None, None, None)
    former = pool_report(max_outstanding=30, host_limit=8, host_open=5)
    (pool,) = seen(report(1, default=former), report(2, default=after)).pools
    assert (pool.total.host_limit, pool.total.max_outstanding, pool.free) == (6, 6, 1)


def test_each_alias_has_the_processes_that_have_it() -> None:
    overview = seen(report(1, default=pool_report(), other=pool_report()), report(2, default=pool_report()))
    assert {pool.alias: [member.pid for member in pool.members] for pool in overview.pools} == {
        "default": [1, 2],
        "other": [1],
    }
    assert [worker.pid for worker in overview.workers] == [1, 2]


def test_ages_are_of_now_and_never_negative() -> None:
    (worker,) = seen(report(1, at=NOW + 3, started_at=NOW - 7)).workers
    assert (worker.reported_ago, worker.age) == (0.0, 7.0)


def test_rates_are_of_the_difference_to_the_sample_before() -> None:
    one = [sample(9_980, checkouts=100), sample(9_985, checkouts=150, wait_seconds=5, in_use=3)]
    two = [sample(9_980, checkouts=7), sample(9_985, checkouts=57, wait_seconds=15, in_use=4, waiting=2)]
    (pool,) = seen(
        report(1, default=pool_report(history=one)), report(2, default=pool_report(history=two))
    ).pools
    first, second = pool.history
    assert (first.at, first.checkouts, first.wait) == (9_980, None, None)
    assert (second.at, second.checkouts, second.wait, second.in_use, second.waiting) == (9_985, 20, 0.2, 7, 2)


def test_a_process_that_had_no_time_for_samples_is_spread_over_them() -> None:
    history = [sample(9_970, checkouts=0), sample(9_985, checkouts=150, in_use=3)]
    (pool,) = seen(report(1, default=pool_report(history=history))).pools
    assert [(moment.at, moment.checkouts) for moment in pool.history] == [
        (9_970, None),
        (9_975, 10),
        (9_980, 10),
        (9_985, 10),
    ]


def test_a_leap_of_the_clock_between_two_samples_is_no_work() -> None:
    history = [sample(-1e15, checkouts=0), sample(NOW - 5, checkouts=150, in_use=3)]
    (pool,) = seen(report(1, default=pool_report(history=history))).pools
    assert [moment.in_use for moment in pool.history] == [3] * SAMPLES


def test_a_moment_that_not_all_have_sampled_yet_is_left_out() -> None:
    history = [sample(NOW - 6), sample(NOW - 1)]
    (pool,) = seen(report(1, default=pool_report(history=history))).pools
    assert [moment.at for moment in pool.history] == [NOW - 6]


def test_who_gave_up_lately() -> None:
    young = [sample(9_980, timeouts=2), sample(9_985, timeouts=5)]
    old = [sample(9_700 + 5 * n, timeouts=100 + n) for n in range(60)]
    (pool,) = seen(
        report(1, default=pool_report(history=young, timeouts=6)),
        report(2, default=pool_report(history=old, timeouts=160)),
    ).pools
    assert pool.timeouts == 66


def test_quantiles_are_of_all_processes_together() -> None:
    overview = seen(
        report(1, default=pool_report(waits=durations(b0=60))),
        report(2, default=pool_report(waits=durations(b5=40))),
    )
    waits = overview.pools[0].waits
    assert waits.count == 100
    assert waits.p50 == pytest.approx(0.001 * 50 / 60)
    # 35 of the 40 that took from 25 to 50 ms.
    assert waits.p95 == pytest.approx(0.025 + 0.025 * 35 / 40)
    assert overview.pools[0].helds.p50 is None


def test_the_longest_holders_of_all_with_the_time_since_they_were_told_of() -> None:
    overview = seen(
        report(1, at=NOW - 2, default=pool_report(held=[(3.0, "GET /a"), (1.0, "GET /b")])),
        report(2, default=pool_report(held=[(4.0, "GET /c")])),
    )
    assert [(each.seconds, each.who, each.pid) for each in overview.pools[0].holders] == [
        (5.0, "GET /a", 1),
        (4.0, "GET /c", 2),
        (3.0, "GET /b", 1),
    ]


def test_troubles_are_told_by_time_and_each_once() -> None:
    overview = seen(
        report(
            1,
            default=pool_report(
                troubles=[(9.0, "timeout", "waited 4.0 s; 10 in use"), (2.0, "connect", "refused")]
            ),
        ),
        report(2, at=NOW - 1, default=pool_report(troubles=[(3.5, "timeout", "waited 5.1 s; 9 in use")])),
    )
    assert [
        (each.ago, each.kind, each.text, each.pid, each.times) for each in overview.pools[0].troubles
    ] == [
        (2.0, "connect", "refused", 1, 1),
        (4.5, "timeout", "waited 5.1 s; 9 in use", 2, 2),
    ]


def test_commands_say_how_many_have_carried_them_out() -> None:
    command = Command("77", NOW - 3, "default", Action.RECYCLE, "boss")
    (told,) = seen(
        replace(report(1), carried_out=["77"]), report(2), report(3, started_at=NOW - 1), commands=(command,)
    ).commands
    assert (told.ago, told.carried_out, told.of) == (3.0, 1, 2)


def test_a_quantile_is_no_more_than_was_measured() -> None:
    one = replace(durations(b13=1), seconds=12.0)
    assert one.quantile(0.95) == 12.0
    three = replace(durations(b11=3), seconds=9.15)
    assert three.quantile(0.95) == pytest.approx(9.15 - 2 * 2.5)
    mixed = replace(durations(b0=99, b10=1), seconds=0.05 + 1.1)
    assert mixed.quantile(0.5) < 0.001 and mixed.quantile(1.0) == pytest.approx(1.15)


def test_the_mean_time_held_is_of_those_that_were_returned() -> None:
    """Three that were taken in the sample before."""
    counts = [(0, 0, 0.0), (3, 3, 0.0), (3, 3, 0.0), (0, 3, 18.0)]
    history = [
        sample(NOW - 30 + 5 * n, in_use=in_use, checkouts=checkouts, held_seconds=seconds)
        for n, (in_use, checkouts, seconds) in enumerate(counts)
    ]
    moments = seen(report(1, default=pool_report(history=history))).pools[0].history
    assert [moment.held for moment in moments] == [None, None, None, 6.0]


def test_quantiles_of_a_histogram() -> None:
    assert Durations().quantile(0.5) is None
    assert durations(b0=1).quantile(1.0) == BOUNDS[0]
    assert durations(**{f"b{len(BOUNDS)}": 3}).quantile(0.5) == BOUNDS[-1]
    assert durations(b3=4).minus(durations(b3=1)).count == 3
