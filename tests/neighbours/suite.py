"""A package's own tests, by pytest, in the process of a run: how each of them ends."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.caches import cache_directory

DOWNLOAD_SECONDS = 300


class _Verdicts:
    """A plugin of pytest."""

    def __init__(self) -> None:
        # By test: the worst that was said of it.
        self.results: dict[str, Any] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.results[report.nodeid] = {"raised": str(report.longrepr)}
        elif report.when == "call" or report.skipped:
            self.results.setdefault(report.nodeid, report.outcome)


def run(package: str, files: tuple[str, ...], database: dict[str, Any]) -> dict[str, Any]:
    """Run these files of its source distribution. Each alias of its settings gets such a database."""
    import pytest

    source = _source(package, version(package))
    _use(database)
    # Their tests are a package of the same name.
    for name in list(sys.modules):
        if name.partition(".")[0] == "tests":
            del sys.modules[name]
    os.chdir(source)
    sys.path.insert(0, str(source))
    verdicts = _Verdicts()
    pytest.main(["-q", "-p", "no:cacheprovider", *files], plugins=[verdicts])
    return verdicts.results


def _use(database: dict[str, Any]) -> None:
    from django.conf import LazySettings

    plain = LazySettings.configure

    def configure(self: Any, *arguments: Any, **options: Any) -> None:
        for alias, settings in options["DATABASES"].items():
            name = f"{database['NAME']}_{alias}"
            settings.update(database, NAME=name, TEST={"NAME": f"{name}_test"})
        plain(self, *arguments, **options)

    LazySettings.configure = configure  # type: ignore[method-assign]


def _source(package: str, release: str) -> Path:
    """Its source distribution, downloaded at first use."""
    sources = cache_directory() / "source"
    target = sources / f"{package}-{release}"
    if not target.exists():
        sources.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=sources) as scratch:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            command += ["--no-binary", package, "--dest", scratch, f"{package}=={release}"]
            subprocess.run(command, check=True, timeout=DOWNLOAD_SECONDS)
            [archive] = Path(scratch).glob("*.tar.gz")
            with tarfile.open(archive) as tar:
                tar.extractall(Path(scratch, "unpacked"), filter="data")
            next(Path(scratch, "unpacked").iterdir()).rename(target)
    return target
