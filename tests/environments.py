"""Virtual environments with other requirements than this one, each made once and kept."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
import venv
from collections.abc import Iterable
from pathlib import Path

INSTALL_SECONDS = 600.0


class CannotInstall(Exception):
    """An environment could not be made; the message is the installer's last word."""


def environment(directory: Path, published: Iterable[str], name: str = "") -> Path:
    """The interpreter of the environment with these requirements, made below ``directory`` if it isn't there.

    ``name``: tells those with the same requirements apart. Raises CannotInstall.
    """
    requirements = list(published)
    identity = "\n".join([sys.version, *requirements, name])
    place = directory / hashlib.sha256(identity.encode()).hexdigest()[:12]
    python = place / "bin" / "python"
    complete = place / "complete"
    directory.mkdir(parents=True, exist_ok=True)
    with place.with_suffix(".lock").open("w") as lock:
        # Another process may be at it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            print(f"installing {', '.join(requirements)} into {place}", file=sys.stderr)
            venv.create(place, clear=True, with_pip=True)
            install(python, *requirements)
            complete.write_text(identity)
    return python


def install(python: Path, *arguments: str) -> None:
    """What ``pip install`` does with these arguments. Raises CannotInstall."""
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    try:
        run = subprocess.run(
            command, cwd=python.parent, capture_output=True, text=True, timeout=INSTALL_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise CannotInstall(f"pip took longer than {INSTALL_SECONDS:.0f} s") from error
    if run.returncode:
        lines = [line for line in run.stderr.splitlines() if line.startswith("ERROR")]
        raise CannotInstall(lines[-1] if lines else f"pip ended with status {run.returncode}")
