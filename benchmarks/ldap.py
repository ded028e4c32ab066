"""The LDAP benchmark: a view of a directory, under ``gunicorn -k gevent -w 1``, in interleaved rounds.

The view gets one entry through Django's ORM, which makes django-ldapdb search twice, and then waits 100 ms
for another service. The directory is a private slapd whose answers come 5 ms late. One series by the number
of clients, and a short one with TLS from the first byte on, where connecting costs more.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

from benchmarks import report
from benchmarks.delay import delayed
from benchmarks.environments import ROOT, CannotInstall, Environments, only_benchmarks
from benchmarks.load import Usage
from benchmarks.measure import Case, DoesNotRun, Effort, load_on, site, wait_for_quiet
from benchmarks.rows import ROWS
from benchmarks.run import Benchmark, Measure, add_common_arguments, say
from benchmarks.variants import DJANGO_LDAPDB, LDAP, LDAPS, VARIANTS, Variant
from tests import processes
from tests.servers import HOST
from tests.slapd import Slapd

NAMED = {variant.name: variant for variant in VARIANTS if LDAP in variant.databases}
SAMPLE_SECONDS = 0.5
ANSWER_SECONDS = 30.0
# Seconds until the load generator has started.
GENERATOR_STARTS = 0.5
# Versions that the environments of all variants share.
VERSIONS = "from importlib.metadata import version; import sys; print(*map(version, sys.argv[1:]))"


class Here(Environments):
    """The runner's own environment and working tree for all variants: nothing is installed."""

    def python_with(self, *key: str) -> Path:
        return Path(sys.executable)


class Directory:
    """A slapd behind a slow network, for one measurement after the other."""

    def __init__(self, server: Slapd, scheme: str, port: int, proxy: int) -> None:
        account = f"{quote(server.user_dn(0), safe='')}:{quote(server.user_password(0), safe='')}"
        self.url = f"{scheme}://{account}@{HOST}:{port}/{quote(server.people_dn)}"
        self.server = server
        self.pids = [server.pid, proxy]

    def connections(self) -> int:
        return self.server.monitor().connections

    @contextmanager
    def watching(self) -> Iterator[dict[str, int]]:
        """The load during the block; complete when the block has ended."""
        seen = {"connections": 0}
        over = threading.Event()

        def sample() -> None:
            while not over.wait(SAMPLE_SECONDS):
                seen["connections"] = max(seen["connections"], self.connections())

        before = self.server.monitor()
        thread = threading.Thread(target=sample)
        thread.start()
        try:
            yield seen
        finally:
            over.set()
            thread.join()
        after = self.server.monitor()
        seen["binds"] = after.binds - before.binds
        seen["searches"] = after.searches - before.searches
        seen["connects"] = after.total_connections - before.total_connections


class DirectoryBenchmark(Benchmark):
    def __init__(self, effort: Effort, delay: float, environments: Environments, patience: float) -> None:
        conditions = {
            **_versions(environments),
            "entries of the directory": ROWS + 1,
            "its answers are late by, in seconds": delay,
        }
        super().__init__(effort, conditions, environments, patience)
        self._delay = delay
        self._more = {"PYTHONPATH": str(ROOT)} if isinstance(environments, Here) else {}

    @contextmanager
    def _measuring(self, database: str) -> Iterator[Measure]:
        with Slapd(users=ROWS + 1, tls=database == LDAPS) as server:
            port = server.tls_port if database == LDAPS else server.port
            with delayed(port, self._delay) as (far_port, proxy):
                directory = Directory(server, database, far_port, proxy)
                yield lambda variant, python, case: self._measure(directory, variant, python, case)

    def _measure(self, directory: Directory, variant: Variant, python: Path, case: Case) -> dict[str, Any]:
        """Raises DoesNotRun."""
        wait_for_quiet(directory.connections)
        more = dict(self._more)
        if directory.server.tls:
            more["LDAPTLS_CACERT"] = str(directory.server.certificate)
        with site(variant, python, directory.url, self._effort, **more) as (port, process):
            # The first request creates everything that is created once.
            _ask(port, "user?id=1")
            _ask(port, "gap")
            pids = [*directory.pids, *processes.family(process.pid)]
            with directory.watching() as seen, self._gap_after_warm_up(port):
                before = Usage(pids)
                result = load_on(port, process, case, self._effort)
                used = Usage(pids).since(before)
            result["gap_ms"] = float(_ask(port, "gap")) * 1000
        ours = used["watched"] / used["seconds"] + result["generator_share"]
        result["others_share"] = max(used["machine"] - ours / (os.cpu_count() or 1), 0.0)
        result["connections"] = seen["connections"]
        for name in ("binds", "searches", "connects"):
            result[f"{name}_per_request"] = seen[name] / max(result["finished"], 1)
        return {"variant": variant.name, **asdict(case), **result}

    @contextmanager
    def _gap_after_warm_up(self, port: int) -> Iterator[None]:
        """The longest gap counts from when the other figures do: all clients begin at the same moment, and so
        many new requests at once are for the server of requests to divide up.
        """
        timer = threading.Timer(self._effort.warm_up + GENERATOR_STARTS, _ask, (port, "gap"))
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()


def _versions(environments: Environments) -> dict[str, str]:
    """Versions of what is installed only for this; empty if it can't be, which the variants then report."""
    names = [requirement.partition(">")[0] for requirement in DJANGO_LDAPDB]
    try:
        command = [str(environments.python_with(*DJANGO_LDAPDB)), "-c", VERSIONS, *names]
        output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    except (CannotInstall, subprocess.CalledProcessError):
        return {}
    return dict(zip(names, output.split(), strict=True))


def _ask(port: int, path: str) -> str:
    connection = http.client.HTTPConnection(HOST, port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", f"/{path}")
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace").strip()
    finally:
        connection.close()
    if answer.status != 200:
        raise DoesNotRun(text[:200])
    return text


def _draw(results: dict[str, Any], chart: Path, environments: Environments) -> None:
    """In an environment of its own, since only this needs the plotting library."""
    try:
        python = environments.python_with("matplotlib>=3.9")
    except CannotInstall as error:
        say(f"no chart: {error}")
        return
    runs = [run for run in results["runs"] if run["database"] == LDAP]
    with only_benchmarks() as directory:
        command = [str(python), "-m", "benchmarks.chart", str(chart.absolute())]
        subprocess.run(command, cwd=directory, input=json.dumps(runs), text=True, check=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="make benchmark-ldap"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0, help="of measuring, after --warm-up")
    parser.add_argument("--warm-up", type=float, default=1.5, help="seconds before that")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 10, 30, 50, 100])
    parser.add_argument("--tls-clients", type=int, nargs="*", default=[30], help="of the series with TLS")
    parser.add_argument("--keep-alive", choices=["no", "yes"], default="no")
    parser.add_argument(
        "--variants", nargs="+", choices=list(NAMED), metavar="NAME", help=", ".join(NAMED), default=NAMED
    )
    parser.add_argument("--pool-size", type=int, default=8, help="most connections of each pool")
    parser.add_argument("--delay", type=float, default=0.005, help="seconds by which answers are late")
    parser.add_argument("--here", action="store_true", help="install nothing; use this environment and tree")
    add_common_arguments(parser)
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw response times there, as SVG")
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    variants = [NAMED[name] for name in arguments.variants]
    environments = Here() if arguments.here else Environments()
    effort = Effort(arguments.warm_up, arguments.seconds, arguments.pool_size)
    benchmark = DirectoryBenchmark(effort, arguments.delay, environments, arguments.patience)
    try:
        for database, numbers in ((LDAP, arguments.clients), (LDAPS, arguments.tls_clients)):
            cases = [Case("user", clients, arguments.keep_alive == "yes") for clients in numbers]
            if cases:
                benchmark.run(database, variants, cases, arguments.rounds)
    except KeyboardInterrupt:
        say("interrupted; this is what there is")
    if arguments.json:
        arguments.json.write_text(json.dumps(benchmark.results, indent=1))
    print(report.tables(benchmark.results, arguments.rst))
    if arguments.chart:
        _draw(benchmark.results, arguments.chart, Environments())


if __name__ == "__main__":
    main()
