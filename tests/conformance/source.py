"""Django's source distribution, whose tests the installed package doesn't have."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import django

from tests.caches import cache_directory

DOWNLOAD_SECONDS = 300


class SourceError(Exception):
    """Django's source can't be had."""


def django_tests() -> Path:
    """The directory of the tests of the Django that is installed; downloaded at first use."""
    version = django.get_version()
    sources = cache_directory() / "source"
    target = sources / f"django-{version}"
    if not target.exists():
        sources.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=sources) as scratch:
            _unpack(_download(version, Path(scratch)), Path(scratch, "unpacked"))
            try:
                next(Path(scratch, "unpacked").iterdir()).rename(target)
            except OSError:
                # Somebody else was faster.
                if not target.exists():
                    raise
    tests = target / "tests"
    if not (tests / "runtests.py").exists():
        raise SourceError(f"{tests} has no runtests.py")
    return tests


def _download(version: str, directory: Path) -> Path:
    # Django alone comes as source. What pip needs to look into it may be a wheel.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-binary", "Django", "--dest", str(directory), f"Django=={version}"]
    pip = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=DOWNLOAD_SECONDS
    )
    archives = list(directory.glob("*.tar.gz"))
    if pip.returncode or len(archives) != 1:
        raise SourceError(f"pip can't download the source of Django {version}:\n{pip.stdout[-3000:]}")
    return archives[0]


def _unpack(archive: Path, directory: Path) -> None:
    with tarfile.open(archive) as tar:
        if hasattr(tarfile, "data_filter"):
            tar.extractall(directory, filter="data")
        else:
            # Python 3.11.0 to 3.11.3.
            tar.extractall(directory)
