"""What pytest sees of tests that run in other processes: collectors, items, reports."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import distributions
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.apart import is_inside
from tests.apart.child import ROOT, Child, ChildFailed, Found
from tests.apart.combinations import FOLDERS, Combination
from tests.conftest import require_module

# By the name of a combination: what there is, in the order in which it runs, and errors.
Collected = dict[str, tuple[list[Found], list[str]]]

_folders = pytest.StashKey[dict[str, Collected]]()
_children = pytest.StashKey["Children"]()

# More for whatever our own process starts meanwhile, a database server for example.
SPARE_SECONDS = 120


def _folder(path: Path) -> str:
    """Of tests, the one that the file is in."""
    return path.parent.as_posix().removeprefix(f"{ROOT.as_posix()}/tests/")


class File(pytest.File):
    """One file of such a folder, with its tests once for each combination."""

    def collect(self) -> Iterator[pytest.Item]:
        folder = _folder(self.path)
        for number, combination in enumerate(FOLDERS[folder]):
            missing = combination.missing()
            if missing:
                yield Missing.of(self, f"test_all[{combination.name}]", missing)
                continue
            found, errors = collected(self.config, folder)[combination.name]
            if errors:
                raise self.CollectError("\n".join(errors))
            for place, one in enumerate(found):
                path, _, name = one.id.partition("::")
                if path == self.nodeid:
                    suffix = f"[{combination.name}]" if combination.name else ""
                    yield Test.of(self, name + suffix, combination, one, (number, place))


class Apart(pytest.Function):
    """A Function, so that it can ask for fixtures: of ours, by ``_request``."""

    @classmethod
    def make(cls, parent: pytest.Collector, name: str) -> Any:
        item: Any = cls.from_parent(parent, name=name, callobj=lambda: None)
        if hasattr(item, "_id"):
            # What pytest 9.2 compares: its parts, parameters by themselves, as when it is read from a text.
            item._id = type(item._id).parse(item.nodeid)
        return item

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, self.name


class Missing(Apart):
    """Stands for all tests of a combination that can't be collected here."""

    @classmethod
    def of(cls, parent: pytest.Collector, name: str, modules: list[str]) -> Missing:
        item: Missing = cls.make(parent, name)
        item.modules = modules
        return item

    def runtest(self) -> None:
        for module in self.modules:
            require_module(module)


class Test(Apart):
    """One test of one combination."""

    # The child's own reports of it, of setup, call and teardown.
    reports: list[pytest.TestReport]
    following: str

    @classmethod
    def of(
        cls,
        parent: pytest.Collector,
        name: str,
        combination: Combination,
        found: Found,
        order: tuple[int, int],
    ) -> Test:
        item: Test = cls.make(parent, name)
        item.combination, item.found, item.order = combination, found, order
        item.reports, item.following = [], ""
        if found.seconds:
            item.add_marker(pytest.mark.timeout(found.seconds + SPARE_SECONDS))
        return item

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, self.found.line, self.name

    def runtest(self) -> None:
        hook = self.config.hook
        self.reports = [
            hook.pytest_report_from_serializable(config=self.config, data=data)
            for data in self.config.stash[_children].run(self, self._request)
        ]

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, ChildFailed):
            return str(excinfo.value)
        return super().repr_failure(excinfo)

    def write(self, report: pytest.TestReport) -> None:
        """Make it the child's."""
        worst = next((one for one in self.reports if one.failed), None)
        worst = worst or next((one for one in self.reports if one.skipped), self.reports[0])
        report.outcome, report.longrepr = worst.outcome, worst.longrepr
        if isinstance(report.longrepr, list):
            # Where a test was skipped; JSON knows no tuples.
            report.longrepr = tuple(report.longrepr)
        report.duration = sum(one.duration for one in self.reports)
        # What was captured before is in each.
        report.sections = list(self.reports[-1].sections)
        report.sections += [
            (f"{one.when}, which fails, too", one.longreprtext)
            for one in self.reports
            if one.failed and one is not worst
        ]
        if hasattr(worst, "wasxfail"):
            report.wasxfail = worst.wasxfail


class Children:
    """Of this process: one at a time, as long as tests of the same combination follow."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._combination: Combination | None = None
        self._child: Child | None = None

    def run(self, test: Test, request: pytest.FixtureRequest) -> list[Any]:
        if self._combination is not test.combination or self._child is None:
            self.end()
            environment = test.combination.prepare(request)
            self._child = start(self._config, test.combination, environment)
            self._combination = test.combination
            self._child.find()
        try:
            reports = self._child.run(test.found, test.following)
        except BaseException:
            self._child = None
            raise
        if not test.following:
            self.end()
        return reports

    def end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.end()


def start(config: pytest.Config, combination: Combination, environment: dict[str, str]) -> Child:
    option = config.option
    options = [f"--tb={option.tbstyle}", *["-l"] * option.showlocals, *["-v"] * max(0, option.verbose + 1)]
    shown = option.capture == "no"
    if shown:
        options.append("-s")
    environment = combination.environment | environment
    cache = getattr(config, "cache", None)
    if sys.dont_write_bytecode and cache is not None:
        # Else a child would mostly compile. Not in a directory that others can write to.
        environment |= {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(cache.mkdir("bytecode"))}
    return Child(combination.folder, environment, options, shown)


def collected(config: pytest.Config, folder: str) -> Collected:
    """By children, one for each combination; once for all processes of pytest-xdist, and kept until a file
    changes.
    """
    known = config.stash.setdefault(_folders, {})
    if folder not in known:
        cache = getattr(config, "cache", None)
        if cache is None:
            known[folder] = _collect(config, folder)
        else:
            with open(
                Path(cache.mkdir("apart"), f"{folder.replace('/', '.')}.json"), "a+", encoding="utf-8"
            ) as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                known[folder] = _kept(file) or _keep(file, _collect(config, folder))
    return known[folder]


def _collect(config: pytest.Config, folder: str) -> Collected:
    def collect(combination: Combination) -> tuple[str, tuple[list[Found], list[str]]]:
        child = start(config, combination, {})
        try:
            return combination.name, child.find()
        except ChildFailed as error:
            return combination.name, ([], [str(error)])
        finally:
            child.end()

    with ThreadPoolExecutor(os.cpu_count()) as executor:
        return dict(executor.map(collect, [one for one in FOLDERS[folder] if not one.missing()]))


def _kept(file: Any) -> Collected:
    file.seek(0)
    with contextlib.suppress(ValueError):
        of, kept = json.load(file)
        if of == _state():
            return {name: ([Found(*one) for one in found], errors) for name, (found, errors) in kept.items()}
    return {}


def _keep(file: Any, found: Collected) -> Collected:
    if not any(errors for _, errors in found.values()):
        file.truncate(0)
        json.dump([_state(), found], file)
    return found


def _state() -> str:
    """What the tests that there are depend on: combinations, all code, and what is installed."""
    digest = hashlib.sha256(sys.version.encode())
    combinations = [f"{one.folder} {one.name}" for several in FOLDERS.values() for one in several]
    for name in [*combinations, *sorted(f"{one.name} {one.version}" for one in distributions())]:
        digest.update(name.encode())
    for folder in ("tests", "django_db_pooling"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(f"{path}\n".encode() + path.read_bytes())
    return digest.hexdigest()


# -- hooks ---------------------------------------------------------------------------------------


def pytest_plugin_registered(plugin: object, manager: pytest.PytestPluginManager) -> None:
    """The fixtures of such a folder are the child's: here an empty plugin has the name of its conftest.py,
    which is then not imported.
    """
    if plugin is sys.modules[__name__]:
        for folder in FOLDERS:
            if not is_inside(folder):
                manager.register(ModuleType(folder), str(ROOT / "tests" / folder / "conftest.py"))


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_children] = Children(config)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    folder = _folder(module_path)
    if folder in FOLDERS and not is_inside(folder):
        return File.from_parent(parent, path=module_path)
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One combination after the other, each in its child's order."""
    first: dict[str, int] = {}
    keys = {}
    for number, item in enumerate(items):
        keys[item] = (number, 0, 0)
        if isinstance(item, Test):
            keys[item] = (first.setdefault(item.combination.folder, number), *item.order)
    items.sort(key=keys.__getitem__)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if isinstance(item, Test):
        same = isinstance(nextitem, Test) and nextitem.combination is item.combination
        item.following = nextitem.found.id if same else ""


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if isinstance(item, Test) and call.when == "call" and item.reports:
        item.write(report)
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Before the servers that it uses end."""
    session.config.stash[_children].end()
