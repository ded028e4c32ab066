import os
from collections.abc import Iterator

import pytest

# Of the child.
assert os.environ["SAMPLE"]


@pytest.fixture(scope="session")
def shared() -> Iterator[list[str]]:
    yield []
