"""pytest for files of this folder in greenlets: gevent's patch is in place before anything else is imported.

The first argument may be one of them, such as "test_use.py".
"""

import sys
from pathlib import Path

from gevent import monkey

monkey.patch_all()

import pytest  # noqa: E402

part = sys.argv.pop(1) if sys.argv[1:2] and sys.argv[1].endswith(".py") else ""
sys.exit(pytest.main([str(Path(__file__).parent / part), *sys.argv[1:]]))
