"""What this process does for the others of its site on this host: it reports, and carries commands out."""

from __future__ import annotations

from contextlib import ExitStack
from operator import methodcaller

from django_db_pooling import status_dir
from django_db_pooling.log import redact
from django_db_pooling.process.tasks import Tasks
from django_db_pooling.registry import Registry, registry
from django_db_pooling.workers import commands
from django_db_pooling.workers.commands import Action, Command, Listener
from django_db_pooling.workers.publish import Publisher
from django_db_pooling.workers.reports import Report

# What a pool does by itself; the others are the registry's.
_ACTIONS = {Action.RECYCLE: methodcaller("recycle"), Action.CLOSE_IDLE: methodcaller("drain")}


class Agent:
    """Looked after by ``process.upkeep``. ``registry``: whose pools it reports, and does something to."""

    name = "the exchange with other processes"

    def __init__(self, registry: Registry) -> None:
        self.tasks = Tasks()
        self._registry = registry
        self._begin()

    def _begin(self) -> None:
        self._publisher = Publisher()
        self._listener = Listener()

    def every_second(self) -> bool:
        # In this order: without pools there may be no settings, either.
        if not self._registry.pools() or not status_dir.is_on():
            return False
        self.tasks.run("carrying out commands", self.carry_out_commands)
        self.tasks.run("writing the report for other processes", self._publish)
        return True

    def carry_out_commands(self) -> None:
        """Those that are due: each, should another one fail. Raises what failed."""
        with ExitStack() as last_first:
            # None of them is due a second time.
            for command in reversed(self._listener.due()):
                last_first.callback(self._carry_out, command)

    def _carry_out(self, command: Command) -> None:
        """In each pool, should it fail in another one."""
        if command.action is Action.PAUSE and command.seconds_left > 0:
            self._registry.pause(command.alias, command.seconds_left)
        elif command.action is Action.RESUME:
            self._registry.resume(command.alias)
        with ExitStack() as last_first:
            for pool in self._registry.pools(command.alias):
                details = {"action": str(command.action), "by": redact(command.by)}
                last_first.callback(pool.journal.note, "ordered", **details)
                last_first.callback(_ACTIONS.get(command.action, bool), pool)

    def join_pauses(self) -> None:
        """That of which others were told before this process had a pool."""
        if status_dir.is_on():
            for alias, seconds in commands.pauses().items():
                self._registry.pause(alias, seconds)

    def _publish(self) -> None:
        stats, pools = self._registry.all_stats(), self._registry.by_alias
        self._publisher.publish(stats, pools, self._listener.carried_out)

    def report(self) -> Report | None:
        """What this process would report at this moment; None while it has no pool."""
        if not self._registry.pools():
            return None
        stats, pools = self._registry.all_stats(), self._registry.by_alias
        return self._publisher.report(stats, pools, self._listener.carried_out)

    def refusal(self) -> str | None:
        """Why this process can't report; None where it can, or hasn't tried yet."""
        return self._publisher.refusal

    def forked(self) -> None:
        self._begin()

    def end(self) -> None:
        self._publisher.remove()


agent = Agent(registry)
