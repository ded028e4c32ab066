"""A server behind a slow network, in a process of its own: tests.proxy is one Python thread.

``python -m benchmarks.delay PORT SECONDS`` prints the port to connect to and ends when its stdin does.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.environments import ROOT
from tests.proxy import TcpProxy
from tests.servers import HOST


@contextmanager
def delayed(port: int, seconds: float) -> Iterator[tuple[int, int]]:
    """A port that delays the answers of another one, and the process that does so."""
    command = [sys.executable, "-m", "benchmarks.delay", str(port), str(seconds)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        yield int(process.stdout.readline()), process.pid
        process.stdin.close()


def main() -> None:
    with TcpProxy(HOST, int(sys.argv[1])) as proxy:
        proxy.delay(float(sys.argv[2]))
        print(proxy.port, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
