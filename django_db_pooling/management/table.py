"""An overview as a table of plain text."""

from __future__ import annotations

import textwrap
from datetime import datetime

from django_db_pooling.log import escape_unprintable
from django_db_pooling.pool.stats import PoolStats
from django_db_pooling.workers import humanize
from django_db_pooling.workers.overview import Overview, PoolPicture
from django_db_pooling.workers.verdict import NOBODY_WAITS, verdicts

# The table fits into as many columns of a terminal.
COLUMNS = 80
HEADINGS = ("in use", "idle", "opening", "waiting", "free", "limit", "per s")
FIGURES = "".join(f" {{:>{max(len(heading), 5)}}}" for heading in HEADINGS)
NAME = COLUMNS - len(FIGURES.format(*HEADINGS))
MAX_SHOWN = 5


def table(overview: Overview, columns: int | None = COLUMNS) -> str:
    """Pools, processes, longest holders and latest problems, in lines of at most ``columns`` characters;
    None: as long as they are.
    """
    at = datetime.fromtimestamp(overview.at).strftime("%H:%M:%S")
    count = len(overview.workers)
    lines = [f"{count} process{'' if count == 1 else 'es'} at {at}"]
    found = verdicts(overview)
    for alias, one in found:
        lines += _wrapped(f"{alias}: {one}", columns)
    if overview.pools and not found:
        lines[0] += f". {NOBODY_WAITS}"
    for pool in overview.pools:
        lines += ["", *_pool(pool)]
    return "\n".join(_cut(line, columns) for line in lines)


def _pool(pool: PoolPicture) -> list[str]:
    lines = [f"{_cut(pool.alias, NAME):{NAME}}{FIGURES.format(*HEADINGS)}"]
    rate = pool.history[-1].checkouts if pool.history else None
    if len(pool.members) != 1:
        lines.append(_row("  total", pool.total, pool.free, rate))
    for member in pool.members:
        name = f"  {member.pid} {member.program}"
        lines.append(_row(name, member.stats, member.stats.free, member.checkouts))
    if about := humanize.about(pool.databases, pool.scopes):
        lines.append(f"  {about}")
    if pool.total.host_limit is not None:
        lines.append(f"  {humanize.of_host(pool.total.host_open, pool.total.host_limit)}")
    if pool.pause is not None:
        until = datetime.fromtimestamp(pool.pause.until).strftime("%H:%M:%S")
        lines.append(f"  paused until {until} in {pool.pause.processes} of {len(pool.members)}")
    lines += [
        f"  last minute:  wait {_times(pool.waits.p50, pool.waits.p95)}",
        f"                hold {_times(pool.helds.p50, pool.helds.p95)}",
    ]
    for number, holding in enumerate(pool.holders[:MAX_SHOWN]):
        label = "longest held:" if number == 0 else ""
        lines.append(f"  {label:13} {humanize.duration(holding.seconds):>6}  {holding.pid}  {holding.who}")
    for number, trouble in enumerate(pool.troubles[:MAX_SHOWN]):
        label = "problems:" if number == 0 else ""
        times = f" ({trouble.times} times)" if trouble.times > 1 else ""
        lines.append(f"  {label:13} {humanize.age(trouble.ago)} ago{times}  {trouble.pid}  {trouble.text}")
    return lines


def _wrapped(text: str, columns: int | None) -> list[str]:
    """What has to be read whole."""
    if columns is None:
        return [text]
    return textwrap.wrap(text, columns, subsequent_indent="  ")


def _row(name: str, stats: PoolStats, free: int | None, rate: float | None) -> str:
    most = stats.max_outstanding
    values = (
        stats.in_use,
        stats.idle,
        stats.opening,
        stats.waiting,
        "any" if free is None else free,
        "none" if most is None else most,
        humanize.rate(rate).replace("–", "-"),
    )
    return f"{_cut(name, NAME):{NAME}}{FIGURES.format(*values)}"


def _times(p50: float | None, p95: float | None) -> str:
    if p50 is None:
        return "-"
    return f"p50 {humanize.duration(p50)}, p95 {humanize.duration(p95)}"


def _cut(text: str, max_length: int | None) -> str:
    # Text from files was escaped by the process that wrote it. Once more, since a terminal obeys escapes.
    text = escape_unprintable(text)
    return text if max_length is None or len(text) <= max_length else text[: max_length - 3] + "..."
