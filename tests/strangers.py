"""Old files of other programs, put where the processes of a site tell each other what their pools do."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

NAMES = ["service-account.json", "package.json", "x.new", "1.order", "123.json", "4.new-order", "data"]
AN_HOUR = 3600.0


class Strangers:
    """Those in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._known = _put(directory)

    def settle(self) -> None:
        """Some more, in the directories that were made in it since."""
        for path in self.directory.rglob("*"):
            if path.is_dir():
                self._known |= _put(path)

    def assert_untouched(self) -> None:
        assert _seen(self._known) == self._known


def _put(directory: Path) -> dict[Path, tuple[bytes, int]]:
    paths = [directory / name for name in NAMES]
    for path in paths:
        path.write_text(f"{path}, of somebody else")
        at = path.stat().st_mtime - AN_HOUR
        os.utime(path, (at, at))
    return _seen(paths)


def _seen(paths: Iterable[Path]) -> dict[Path, tuple[bytes, int]]:
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}
