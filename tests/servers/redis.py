"""Redis, as the machine has it installed: the queue of tasks, which forgets all when it ends."""

from __future__ import annotations

import signal

from tests.servers.server import Server, need, which


class Redis(Server):
    """It knows no password."""

    scheme = "redis"
    accounts = ("redis", "nobody")
    stop_signal = signal.SIGTERM

    @classmethod
    def find(cls) -> str | None:
        return which("redis-server") and which("redis-cli")

    def execute(self, *command: str) -> str:
        return self._run_client([need("redis-cli"), "-h", self.host, "-p", str(self.port), *command]).strip()

    def _initialise(self) -> None:
        pass

    def _command(self) -> list[str]:
        command = [need("redis-server"), "--bind", self.host, "--port", str(self.port)]
        return [*command, "--save", "", "--dir", str(self.directory)]

    def _check(self) -> None:
        self.execute("PING")
