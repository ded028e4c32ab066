"""Other Pythons, and virtual environments with other requirements than this one, each made once and kept."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

INSTALL_SECONDS = 600.0


class CannotInstall(Exception):
    """An environment could not be made; the message is the installer's last word."""


def find_python(version: str) -> Path | None:
    """An interpreter of this version, "3.13" for example, that this machine has: pyenv's, too."""
    name = f"python{version}"
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    found = [Path(sys.executable), *(Path(path) for path in [shutil.which(name)] if path)]
    # The latest of them first.
    found += sorted(pyenv.glob(f"versions/{version}.*/bin/{name}"), key=_by_number, reverse=True)
    return next((python for python in found if _version(python).startswith(f"{version}.")), None)


def _by_number(python: Path) -> list[int]:
    return [int(part) for part in python.parts[-3].split(".") if part.isdecimal()]


def _version(python: Path) -> str:
    """What ``sys.version`` says there; nothing where it doesn't run, as pyenv's stand-ins may not."""
    command = [str(python), "-c", "import sys; print(sys.version)"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def environment(
    directory: Path, published: Iterable[str], name: str = "", base: str | Path = sys.executable
) -> Path:
    """The interpreter of the environment with these requirements, made below ``directory`` if it isn't there.

    ``name``: tells those with the same requirements apart. ``base``: the Python that it is made with. Raises
    CannotInstall.
    """
    requirements = list(published)
    identity = "\n".join([_version(Path(base)), *requirements, name])
    place = directory / hashlib.sha256(identity.encode()).hexdigest()[:12]
    python = place / "bin" / "python"
    complete = place / "complete"
    directory.mkdir(parents=True, exist_ok=True)
    with place.with_suffix(".lock").open("w") as lock:
        # Another process may be at it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            print(f"installing {', '.join(requirements)} into {place}", file=sys.stderr)
            subprocess.run([str(base), "-m", "venv", "--clear", str(place)], check=True)
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
