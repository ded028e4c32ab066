from collections.abc import Iterator

import pytest

from tests.apart import is_inside

if is_inside("apart/samples"):

    @pytest.fixture(scope="session")
    def shared() -> Iterator[list[str]]:
        yield []
        print("taken down")
