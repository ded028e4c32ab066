"""pytest for this folder, with gevent's patch in place before anything else is imported."""

import os
import sys
from pathlib import Path

if os.environ.get("POOLING_GEVENT"):
    from gevent import monkey

    monkey.patch_all()

import pytest

sys.exit(pytest.main([str(Path(__file__).parent), *sys.argv[1:]]))
