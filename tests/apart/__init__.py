"""Folders of tests that need processes of their own, as ordinary tests of the pytest that is started.

A process has one database driver, and is patched by gevent or not. So each file of such a folder is collected
once for each combination, by a child process, ``python -m tests.FOLDER``, which lists what it has found. A
test is run by such a child, too: one after the other as it is asked to, and it sends the reports back.
``combinations`` says which folders and combinations there are, ``nodes`` is what pytest sees of them,
``child`` the handle of a child process, ``inside`` what is different in such a process.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Descriptors of a child: of what it reads from its parent, of what it writes.
PIPES = "POOLING_APART"

# The folder whose tests this process runs by itself.
_folder = ""


def is_inside(folder: str) -> bool:
    """Whether this process runs tests of the folder by itself: then it has its fixtures."""
    return folder == _folder


def main(folder: str, *more: str) -> None:
    """Run pytest for the folder, in this process, with the command line's options and more."""
    global _folder
    import pytest

    _folder = folder
    options = [*more, *sys.argv[1:]]
    if os.environ.get(PIPES):
        options += ["-p", "tests.apart.inside"]
    sys.exit(pytest.main([str(Path(__file__).parent.parent / folder), *options]))
