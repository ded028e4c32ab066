"""HOST_LIMIT counts connections to a directory, too."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.test import override_settings

from django_db_pooling import pooling
from django_db_pooling.exceptions import PoolTimeout
from django_db_pooling.process.record_locks import RecordLocks
from tests.concurrency import in_threads
from tests.ldap_backend.conftest import Configure, ask, held
from tests.unit.host_worker import finder
from tests.unit.other_process import OtherProcess


def test_another_process_has_the_others(configure: Configure, tmp_path: Path) -> None:
    with override_settings(DB_POOL_STATUS_DIR=str(tmp_path)):
        alias = configure(POOL={"HOST_LIMIT": 3, "SIZE": 2, "TIMEOUT": 0.5})
        ask()
        [path] = tmp_path.glob("**/*.lock")
        with OtherProcess(lambda: RecordLocks(finder(path))) as they, held(1):
            assert they.do("take", 1, 2)
            assert (pooling.stats(alias).host_limit, pooling.stats(alias).host_open) == (3, 3)
            with pytest.raises(PoolTimeout, match="HOST_LIMIT 3, 3 open in"):
                in_threads([ask])
            they.do("release", 1)
            in_threads([ask])
