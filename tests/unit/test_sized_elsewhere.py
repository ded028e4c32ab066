"""set_pool_size() in wsgi.py: what the check of a server's limit and db_pools --plan say of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from django_db_pooling import capacity, conf
from django_db_pooling.capacity import Server, Share
from django_db_pooling.management import plan

CALLING = "from django_db_pooling import pooling\npooling.set_pool_size(\n    10)\npooling.patch()\n"
PATCHING = "from django_db_pooling import pooling\npooling.patch()\n"


@pytest.fixture(autouse=True)
def nothing_overridden(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(conf, "_overrides", {})
    yield


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """Settings of a project whose package is importable."""
    (tmp_path / "sized_site").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    settings = SimpleNamespace(
        WSGI_APPLICATION="sized_site.wsgi.application", folder=tmp_path / "sized_site", SECRET_KEY="x"
    )
    monkeypatch.setattr(capacity, "settings", settings)
    return settings


def test_only_a_module_that_calls_it_is_told_of(site: SimpleNamespace) -> None:
    # There is none: no error.
    assert capacity.unknown_sizes() == []
    (site.folder / "wsgi.py").write_text(PATCHING)
    assert capacity.unknown_sizes() == []
    (site.folder / "asgi.py").write_text("raise RuntimeError('never run by a check')\n" + CALLING)
    site.ASGI_APPLICATION = "sized_site.asgi.application"
    [told] = capacity.unknown_sizes()
    assert told.id == "django_db_pooling.I004"
    assert told.message.startswith("sized_site.asgi calls set_pool_size()")
    assert "--plan" in told.hint


def test_where_it_was_called_in_this_process_it_is_known(site: SimpleNamespace) -> None:
    (site.folder / "wsgi.py").write_text(CALLING)
    assert capacity.sized_elsewhere() == "sized_site.wsgi"
    conf.override(10, 20, conf.UNCHANGED, None)
    assert capacity.sized_elsewhere() is None


@pytest.mark.parametrize("value", [None, "", "application", "no.such.module.application", "..x.y", 7])
def test_what_is_no_module_breaks_nothing(site: SimpleNamespace, value: object) -> None:
    site.WSGI_APPLICATION = value
    assert capacity.unknown_sizes() == []


def test_a_plan_says_so_only_of_limits_that_no_process_has_reported(site: SimpleNamespace) -> None:
    (site.folder / "wsgi.py").write_text(CALLING)
    server = Server("mysql", "db", "")
    assert plan.unknown({server: [Share("default", 20)]}) is None
    said = plan.unknown({server: [Share("default", 20), Share("other", 20, is_reported=False)]})
    assert said is not None
    assert said.startswith("sized_site.wsgi calls set_pool_size()")
