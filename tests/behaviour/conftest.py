"""The fixtures of this folder, where its tests run: see ``tests.apart``."""

import pytest

from tests.apart import is_inside

if is_inside("behaviour"):
    pytest.register_assert_rewrite("tests.behaviour.fixtures")

    from tests.behaviour.fixtures import *  # noqa: F403
