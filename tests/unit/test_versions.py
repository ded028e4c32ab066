"""Which versions of libraries are told of; tests/test_old_versions.py has them."""

from __future__ import annotations

import configparser
import re
import sys
from importlib import metadata
from types import ModuleType

import pytest

from django_db_pooling import versions
from django_db_pooling.versions import SOUND, Sound
from tests.unit.rooms import ROOT

BY_NAME = {sound.distribution: sound for sound in SOUND}
pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(params=SOUND, ids=lambda sound: sound.distribution)
def only(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Sound:
    """Nothing else is loaded, and what matters of it does."""
    sound: Sound = request.param._replace(matters=lambda: True)
    monkeypatch.setattr(versions, "SOUND", [sound])
    monkeypatch.setitem(sys.modules, sound.module, ModuleType(sound.module))
    return sound


def told(monkeypatch: pytest.MonkeyPatch, version: str | None) -> list[str]:
    def say(distribution: str) -> str | None:
        return version

    monkeypatch.setattr(metadata, "version", say)
    return [f"{problem.id} {problem.message} {problem.hint}" for problem in versions.warnings()]


def test_one_that_is_older_is_told_of_with_the_reason_and_the_remedy(
    only: Sound, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("0.9", "2.2.99", "2.3.0.post1", "1.2.3", "3.5.5", "26.0.99"):
        numbers = [int(number) for number in version.replace("post", "").split(".")]
        if numbers >= [int(number) for number in only.least.split(".")]:
            continue
        [text] = told(monkeypatch, version)
        assert text.startswith(f"django_db_pooling.W010 {only.distribution} {version} is older than")
        assert only.reason in text
        assert f"pip install '{only.distribution}>={only.least}'" in text


@pytest.mark.parametrize("suffix", ["", ".0", ".1", ".10", ".post1", "rc1", ".dev3", "+local.7"])
def test_the_first_sound_one_and_later_ones_are_not(
    only: Sound, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert told(monkeypatch, only.least + suffix) == []
    assert told(monkeypatch, f"{int(only.least.split('.')[0]) + 1}{suffix}") == []


@pytest.mark.parametrize("version", [None, "", "unknown"])
def test_what_has_no_version_hurts_nobody(
    only: Sound, version: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert told(monkeypatch, version) == []
    monkeypatch.undo()
    monkeypatch.setattr(versions, "SOUND", [only._replace(distribution="no such distribution")])
    monkeypatch.setitem(sys.modules, only.module, ModuleType(only.module))
    assert versions.warnings() == []


def test_what_is_not_loaded_is_not_looked_at(only: Sound, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, only.module)
    assert told(monkeypatch, "0.1") == []


def test_gevent_that_has_patched_nothing_is_not_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gevent", "greenlet"):
        monkeypatch.setattr(versions, "SOUND", [BY_NAME[name]])
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
        assert told(monkeypatch, "0.1") == []


def test_the_extras_ask_for_sound_ones() -> None:
    """But for gunicorn, most of whose workers are fine in older versions."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    asked = re.findall(
        r"(?m)^([\w-]+)(?:\[\w+\])?>=([\d.]+)$", "\n".join(config["options.extras_require"].values())
    )
    for name, least in asked:
        if name in BY_NAME and name != "gunicorn":
            assert least == BY_NAME[name].least, name
    assert {name for name, _ in asked} >= BY_NAME.keys()
