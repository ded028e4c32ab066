"""pytest for this folder in greenlets, with gevent's patch in place before anything else is imported."""

import sys
from pathlib import Path

from gevent import monkey

monkey.patch_all()

import pytest  # noqa: E402

sys.exit(pytest.main([str(Path(__file__).parent), *sys.argv[1:]]))
