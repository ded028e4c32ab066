"""Pools of three real processes under HOST_LIMIT, in any order of what can happen to them."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.unit.host_worker import Seen, Worker, worker
from tests.unit.other_process import OtherProcess

WHO = st.integers(0, 2)
LIMIT = st.integers(1, 7)


class Machine(RuleBasedStateMachine):
    """After each step the file says what they have, and what one doesn't get is somebody else's."""

    def __init__(self) -> None:
        super().__init__()
        self.started = ExitStack()
        self.workers: list[OtherProcess[Worker]] = []

    @initialize(limit=LIMIT, least=st.integers(0, 2))
    def begin(self, limit: int, least: int) -> None:
        directory = self.started.enter_context(tempfile.TemporaryDirectory())
        self.path, self.limit, self.least = Path(directory) / "locks", limit, least
        self.seen = Seen(self.path)
        self.workers = [self.start() for _ in range(3)]

    def start(self) -> OtherProcess[Worker]:
        return self.started.enter_context(worker(self.path, self.limit, min_size=self.least))

    def sizes(self) -> list[int]:
        return [one.do("size") for one in self.workers]

    @rule(who=WHO, count=st.integers(1, 4))
    def opens(self, who: int, count: int) -> None:
        idle, free = self.workers[who].do("idle"), self.limit - sum(self.sizes())
        expected = min(count, idle + free)
        # Who has given its last one to others lets them look first.
        for _ in range(expected - self.workers[who].do("open", expected)):
            assert self.workers[who].do("wait_for_one", 5.0) is None
        assert not self.workers[who].do("open", count - expected)

    @rule(who=WHO, count=st.integers(1, 4))
    def gives(self, who: int, count: int) -> None:
        self.workers[who].do("give", count)

    @rule(who=WHO, count=st.integers(1, 4))
    def closes(self, who: int, count: int) -> None:
        self.workers[who].do("close", count)

    @rule(who=WHO)
    def waits_in_vain_or_not(self, who: int) -> None:
        has_one = self.workers[who].do("idle") or sum(self.sizes()) < self.limit
        seconds = 5.0 if has_one else 0.03
        assert (self.workers[who].do("wait_for_one", seconds) is None) == bool(has_one)

    @rule(who=WHO, is_old=st.booleans())
    def is_looked_after(self, who: int, is_old: bool) -> None:
        before = self.workers[who].do("size")
        if is_old:
            self.workers[who].do("age", 5.0)
        assert self.workers[who].do("upkeep") == before, "nobody needs any"

    @rule(who=WHO, other=WHO)
    def gets_what_another_one_has_idle(self, who: int, other: int) -> None:
        """Though that one has a right to a minimum, where there is more than that."""
        if who == other or self.workers[who].do("idle"):
            return
        before, theirs = self.workers[who].do("size"), self.workers[other].do("idle")
        self.workers[other].do("age", 5.0)
        self.workers[who].begin("wait_for_one", 0.1 if theirs <= self.least else 5.0)
        while not self.workers[who].is_done:
            self.workers[other].do("upkeep")
        refused = self.workers[who].result()
        assert refused is None or theirs <= self.least
        assert self.workers[who].do("size") == before + (refused is None)

    @rule(who=WHO)
    def is_killed(self, who: int) -> None:
        self.workers[who].kill()
        self.workers[who] = self.start()

    @invariant()
    def the_file_says_what_there_is(self) -> None:
        if self.workers:
            sizes = self.sizes()
            assert self.seen.open == sum(sizes) <= self.limit
            assert self.seen.needs == 0
            having = sum(map(bool, sizes))
            assert having <= self.seen.processes <= 3

    def teardown(self) -> None:
        self.started.close()


Machine.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestMachine = Machine.TestCase
