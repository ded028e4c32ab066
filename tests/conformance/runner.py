"""Django's test runner, which also writes down how each test ended."""

from __future__ import annotations

import unittest
from collections import defaultdict
from typing import Any

from django.test.runner import DiscoverRunner, ParallelTestSuite, RemoteTestRunner

from tests.conformance import state
from tests.conformance.spec import Report, Spec


class Result(unittest.TextTestResult):
    """Keeps every outcome by the full name of its test. A test with subtests may have several."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.outcomes: dict[str, list[str]] = defaultdict(list)
        self.details: dict[str, str] = {}

    def _note(self, outcome: str, test: Any, detail: str = "") -> None:
        # A subtest is noted with its test: its own name may contain addresses of objects.
        name = getattr(test, "test_case", test).id()
        self.outcomes[name].append(outcome)
        if detail:
            self.details[name] = self.details.get(name, "") + detail

    @property
    def verdicts(self) -> dict[str, str]:
        return {name: ", ".join(sorted(outcomes)) for name, outcomes in self.outcomes.items()}

    def addSuccess(self, test: unittest.TestCase) -> None:
        super().addSuccess(test)
        self._note("pass", test)

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        super().addError(test, err)
        self._note(f"error ({err[0].__name__})", test, self.errors[-1][1])

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addFailure(test, err)
        self._note("fail", test, self.failures[-1][1])

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        super().addSkip(test, reason)
        self._note("skip", test, reason)

    def addExpectedFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addExpectedFailure(test, err)
        self._note("expected failure", test)

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        super().addUnexpectedSuccess(test)
        self._note("unexpected success", test)

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            failed = issubclass(err[0], test.failureException)
            last = (self.failures if failed else self.errors)[-1]
            outcome = "fail" if failed else f"error ({err[0].__name__})"
            self._note(f"{outcome} in a subtest", test, last[1])


class Worker(RemoteTestRunner):
    """Runs tests in a process of --parallel, whose pools are its own."""

    def run(self, test: Any) -> Any:
        try:
            return super().run(test)
        finally:
            state.write_worker(Spec.of_this_process())


class ParallelSuite(ParallelTestSuite):
    runner_class = Worker


class Runner(DiscoverRunner):
    parallel_test_suite = ParallelSuite

    def get_resultclass(self) -> type[Result]:
        return Result

    def get_databases(self, suite: Any) -> Any:
        self.aliases = super().get_databases(suite)
        return self.aliases

    def run_suite(self, suite: Any, **kwargs: Any) -> Any:
        self.result: Any = super().run_suite(suite, **kwargs)
        return self.result

    def run_tests(self, test_labels: Any, **kwargs: Any) -> int:
        failures = super().run_tests(test_labels, **kwargs)
        spec = Spec.of_this_process()
        stats = state.check(spec, self.aliases)
        report = Report(spec.scope, spec.transactions, self.result.verdicts, self.result.details, stats)
        report.write(Report.path(spec.output))
        return failures
