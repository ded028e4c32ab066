"""Mixed load on a real site while something breaks every few seconds: ``python -m tests.soak --minutes 10``.

A gunicorn with gevent reaches its database server through a proxy. Round by round: visitors come; meanwhile
connections are killed, the server restarts or is silent, the network drops, delays, cuts or swallows what is
said, and the pool is changed. Then the visitors leave, and what must hold is looked at, also that files of
other programs are untouched that lie where the site's processes tell each other things. Prints figures, and
the seed that gives the same faults again. Ends with an AssertionError where something doesn't hold.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django_db_pooling.pool.ending import AT_A_TIME
from tests.e2e.checks import assert_every_slot_is_usable, assert_tokens_are_their_own, is_at_rest
from tests.e2e.conftest import MAX_CONNECTIONS, create_rows
from tests.e2e.observer import DATABASE, observing
from tests.e2e.sites import Site, eventually, gunicorn, url_through
from tests.proxy import TcpProxy
from tests.servers import DatabaseServer, MariaDB, PostgreSQL
from tests.site import ON_PURPOSE
from tests.strangers import Strangers

SERVERS: dict[str, type[DatabaseServer]] = {"mariadb": MariaDB, "postgresql": PostgreSQL}
SCOPES = ("request", "transaction")
SIZE, MOST = 4, 6
# What the faults change it to.
LEAST_RESIZED, MOST_RESIZED = 3, 8
CLIENTS = 24
ROUND_SECONDS = 10.0
PAUSE = (0.5, 3.0)
PATIENCE = 60.0
SAMPLE_SECONDS = 0.02
PAGE = os.sysconf("SC_PAGE_SIZE")
# Of a worker, from the end of its first rounds to the end of all.
WARM_UP = 0.3
MOST_ERRORS = 10
GROWTH_MEGABYTES = 16.0
# Kernel: include/net/tcp_states.h. A socket in one of these may be in use.
ESTABLISHED, SYN_SENT = "01", "02"

PATHS = [
    *[f"/{path}?t=TOKEN" for path in ("token", "transaction", "mixed", "session", "interrupted", "error")],
    # gevent.Timeout around the whole request.
    *[f"/{path}?t=TOKEN&deadline=0.2" for path in ("token", "mixed")],
    "/one",
    "/atomic",
    "/transaction?t=TOKEN",
    "/session?t=TOKEN",
    "/left_open?t=TOKEN",
]
# How the text of an answer may begin that isn't what was asked for.
EXPECTED = (
    # gevent.Timeout, gunicorn's page.
    "<html>",
    # Those of the views themselves.
    f"RuntimeError: {ON_PURPOSE}",
    "IntegrityError: ",
    # A connection that died or wasn't there.
    "OperationalError: ",
    "InterfaceError: ",
    "PoolTimeout: ",
    # Of a cursor that Django closes for psycopg, which it doesn't translate.
    "AdminShutdown: ",
    # After an IntegrityError, when the connection died in going back to the savepoint.
    "TransactionManagementError: An error occurred in the current transaction",
)
OPEN_TRANSACTIONS = {
    "mysql": "SELECT trx_id FROM information_schema.innodb_trx",
    "postgres": (
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'"
        " AND pid <> pg_backend_pid() AND xact_start IS NOT NULL"
    ),
}
HALF_WRITTEN = "SELECT token FROM site_mark GROUP BY token HAVING COUNT(*) <> 2"


class Soak:
    """One server, one site, and what has happened to them so far."""

    def __init__(
        self,
        server: DatabaseServer,
        proxy: TcpProxy,
        site: Site,
        strangers: Strangers,
        chance: random.Random,
    ) -> None:
        self.server = server
        self.proxy = proxy
        self.site = site
        self.strangers = strangers
        self.chance = chance
        self._ask("/one")
        eventually(self._told_at, PATIENCE)
        strangers.settle()
        self.worker = self._pid()
        self.megabytes: list[float] = []
        self.happened: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.most_sockets = 0
        # In this round.
        self.most_allowed = MOST
        self.excess: list[tuple[int, int]] = []

    # -- faults: each is over when it returns -------------------------------------------------------

    def kill(self) -> None:
        """All connections, at the server."""
        with observing(self.server) as observer:
            observer.kill()

    def restart(self) -> None:
        self.server.stop()
        self._wait(0.0, 2.0)
        self.server.start()

    def suspend(self) -> None:
        """SIGSTOP, then SIGCONT."""
        self.server.suspend()
        try:
            self._wait(0.5, 5.0)
        finally:
            self.server.resume()

    def drop(self) -> None:
        """All connections, on their way."""
        self.proxy.drop(reset=self.chance.random() < 0.5)

    def cut(self) -> None:
        """All connections, in the middle of what is said on them next."""
        self.proxy.cut()
        self._wait(0.1, 1.0)
        self.proxy.resume()

    def refuse(self) -> None:
        self.proxy.refuse()
        if self.chance.random() < 0.5:
            self.proxy.drop()
        self._wait(0.1, 2.0)
        self.proxy.resume()

    def deaf(self) -> None:
        self.proxy.deaf()
        self._wait(0.1, 3.0)
        self.proxy.resume()

    def delay(self) -> None:
        self.proxy.delay(self.chance.uniform(0.01, 0.2))
        self._wait(0.5, 2.0)
        self.proxy.resume()

    def recycle(self) -> None:
        self._ask("/recycle")

    def order(self) -> None:
        """The same in all processes, by a file."""
        self._ask("/order")

    def resize(self) -> None:
        most = self.chance.randint(LEAST_RESIZED, MOST_RESIZED)
        # What is in use stays when there is to be less of it.
        self.most_allowed = max(self.most_allowed, most)
        self._ask(f"/resize?n={most}")

    @property
    def faults(self) -> list[Callable[[], None]]:
        return [
            self.kill,
            self.restart,
            self.suspend,
            self.drop,
            self.cut,
            self.refuse,
            self.deaf,
            self.delay,
            self.recycle,
            self.order,
            self.resize,
        ]

    def _wait(self, least: float, most: float) -> None:
        time.sleep(self.chance.uniform(least, most))

    def _ask(self, path: str) -> None:
        answer = self.site.get(path)
        assert answer.status == 200, answer

    # -- rounds -------------------------------------------------------------------------------------

    def round(self, seconds: float) -> None:
        """Visitors and faults, and afterwards nothing of all that."""
        self.most_allowed = MOST
        load = self.site.load(*PATHS, clients=CLIENTS, seconds=seconds)
        until = time.monotonic() + seconds
        try:
            with self._watching_sockets():
                for fault in self._in_any_order():
                    self._wait(*PAUSE)
                    if time.monotonic() > until:
                        break
                    fault()
                    self.happened[fault.__name__] += 1
                report = load.report()
        except BaseException:
            load.process.kill()
            raise
        self.answered.update(report["answered"])
        self.answered.update(report["failed"])
        self.errors.update(report["errors"])
        assert report["wrong"] == [], report
        assert report["answered"].get("200", 0) > 0, report
        unexpected = [error for error in report["errors"] if not error.startswith(EXPECTED)]
        assert unexpected == [], report
        self._ask(f"/resize?n={MOST}")
        self._check()

    def _in_any_order(self) -> Iterator[Callable[[], None]]:
        while True:
            yield from self.chance.sample(self.faults, len(self.faults))

    def _check(self) -> None:
        """What must hold when nobody is there and nothing is broken."""
        site = self.site
        eventually(lambda: is_at_rest(site), PATIENCE)
        # The first one after an outage.
        self._ask("/one")
        assert_every_slot_is_usable(site, "/occupy?s=1")
        assert_tokens_are_their_own(site, range(CLIENTS), ["/token", "/transaction", "/mixed", "/session"])
        eventually(lambda: is_at_rest(site), PATIENCE)
        stats = site.stats()
        assert stats["opened"] - stats["closed"] == stats["idle"], stats
        assert self._pid() == self.worker, "another worker has taken over"
        with observing(self.server) as observer:
            eventually(lambda: observer.connections() == stats["idle"], PATIENCE)
        eventually(lambda: self._rows(OPEN_TRANSACTIONS[self.server.scheme]) == [], PATIENCE)
        assert self._rows(HALF_WRITTEN) == []
        self.server.execute("DELETE FROM site_mark", DATABASE)
        told_at = self._told_at()
        eventually(lambda: self._told_at() > told_at, PATIENCE)
        self.strangers.assert_untouched()
        self.megabytes.append(resident_megabytes(self.worker))

    def _rows(self, sql: str) -> list[tuple[str, ...]]:
        return self.server.execute(sql, DATABASE)

    def _told_at(self) -> float:
        """When a process of the site has told others what its pools do; 0 where none has."""
        return max(
            (path.stat().st_mtime for path in self.strangers.directory.glob("*/*/*-report-*.json")),
            default=0.0,
        )

    def _pid(self) -> int:
        return int(json.loads(self.site.get("/pool.json").text)["pid"])

    # -- the worker, from outside ---------------------------------------------------------------------

    @contextmanager
    def _watching_sockets(self) -> Iterator[None]:
        """The worker has never more sockets to the server than it may, whatever the server counts; but for
        those by which the server is told to end what was given up.
        """
        # With MySQL's drivers one connection ends all.
        at_a_time = 1 if isinstance(self.server, MariaDB) else AT_A_TIME
        over = threading.Event()
        trouble: list[BaseException] = []

        def sample() -> None:
            try:
                while not over.wait(SAMPLE_SECONDS):
                    # None of these reads is of one moment, but what is in both was there in between.
                    count = len(clients_of(self.proxy.port) & clients_of(self.proxy.port))
                    self.most_sockets = max(self.most_sockets, count)
                    if count > self.most_allowed + at_a_time:
                        self.excess.append((count, self.most_allowed))
            except BaseException as error:
                trouble.append(error)

        thread = threading.Thread(target=sample)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
        if trouble:
            raise trouble[0]
        assert self.excess == []

    def report(self) -> str:
        warm = self.megabytes[warm_up(len(self.megabytes)) - 1]
        stats = self.site.stats()
        counts = ("checkouts", "opened", "broken", "abandoned", "reclaimed", "timeouts", "resets", "pins")
        return "\n".join(
            [
                f"answers: {show(self.answered)}",
                *(f"{count} times: {error!r}" for error, count in self.errors.most_common(MOST_ERRORS)),
                f"faults: {show(self.happened)}",
                f"pool: {', '.join(f'{name} {stats[name]}' for name in counts)}",
                f"most sockets at a time: {self.most_sockets} of {MOST}, resized: {MOST_RESIZED}",
                f"memory of the worker: {warm:.1f} MB after {warm_up(len(self.megabytes))} of "
                f"{len(self.megabytes)} rounds, {self.megabytes[-1]:.1f} MB at the end",
            ]
        )

    def assert_memory_is_flat(self) -> None:
        warm = self.megabytes[warm_up(len(self.megabytes)) - 1]
        assert self.megabytes[-1] - warm < GROWTH_MEGABYTES, self.megabytes


def warm_up(rounds: int) -> int:
    """After how many of the rounds all has been seen once."""
    return max(1, int(rounds * WARM_UP))


def show(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(counts.items()))


def resident_megabytes(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE / 1e6


def clients_of(port: int) -> set[str]:
    """The other ends of all TCP connections to this port, be they there or on their way."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    sockets = [line.split()[1:4] for line in lines]
    return {
        local
        for local, remote, state in sockets
        if state in (ESTABLISHED, SYN_SENT) and int(remote.rpartition(":")[2], 16) == port
    }


@contextmanager
def prepared(server: DatabaseServer) -> Iterator[DatabaseServer]:
    with server:
        create_rows(server)
        yield server


@contextmanager
def beside_strangers() -> Iterator[Strangers]:
    with tempfile.TemporaryDirectory(prefix="status-") as directory:
        yield Strangers(Path(directory))


def soak(kind: str, scope: str, minutes: float, seed: int) -> None:
    """Rounds on one kind of server, in one scope, for so long."""
    print(f"{kind}, {scope} scope, {minutes:g} minutes, --seed {seed}", flush=True)
    with (
        beside_strangers() as strangers,
        prepared(SERVERS[kind](MAX_CONNECTIONS)) as server,
        TcpProxy(server.host, server.port) as proxy,
        gunicorn(
            server,
            pooling=(SIZE, MOST),
            # gunicorn drops visitors whose request it hasn't read after so many seconds.
            arguments=["--keep-alive=60", "--log-level=critical"],
            database_url=url_through(proxy, server),
            # Some of the faults take longer than that.
            pool={"SCOPE": scope, "CONNECT_RETRY": 1},
            status_dir=str(strangers.directory),
        ) as site,
    ):
        soaking = Soak(server, proxy, site, strangers, random.Random(seed))
        until = time.monotonic() + 60 * minutes
        for number in itertools.count(1):
            left = until - time.monotonic()
            if left <= 0:
                break
            soaking.round(min(ROUND_SECONDS, max(left, 3.0)))
            print(f"round {number}: {soaking.megabytes[-1]:.1f} MB, {show(soaking.happened)}", flush=True)
        print(soaking.report(), flush=True)
        soaking.assert_memory_is_flat()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="make soak ARGS=...", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0, help="in all (2)")
    parser.add_argument("--server", choices=[*SERVERS, "all"], default="all")
    parser.add_argument("--scope", choices=[*SCOPES, "all"], default="all")
    parser.add_argument("--seed", type=int, default=None, help="one that was printed")
    options: Any = parser.parse_args(arguments)
    seed = random.randrange(2**32) if options.seed is None else options.seed
    kinds = list(SERVERS) if options.server == "all" else [options.server]
    scopes = SCOPES if options.scope == "all" else (options.scope,)
    runs = list(itertools.product(kinds, scopes))
    for kind, scope in runs:
        soak(kind, scope, options.minutes / len(runs), seed)


if __name__ == "__main__":
    main()
