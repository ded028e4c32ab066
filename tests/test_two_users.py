"""Sites of two users on one host, whose files lie side by side: neither is of any account to the other."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import give_up
from tests.scripts import run

# Users of nobody's account: each is a number.
BEGIN = """
django.setup()
pooling.patch()
from pathlib import Path
from django_db_pooling import status_dir
from tests.user_sites import UserSite, is_heard, query, recycle, until

US, THEM = 54321, 54322
query()
until(is_heard)
recycle()
parent = status_dir.parent()
place = parent / f"django_db_pooling-{US}"
"""


@pytest.fixture
def parent() -> Iterator[Path]:
    """As /tmp."""
    if os.geteuid() != 0:
        give_up("only root can become other users")
    path = Path(tempfile.mkdtemp(prefix="parent-"))
    path.chmod(0o1777)
    yield path
    shutil.rmtree(path)


def run_sites(script: str, parent: Path) -> None:
    assert run(f"{BEGIN}{script}\nprint('done')", parent, DB_POOL_STATUS_DIR=str(parent)) == "done\n"


def test_neither_hears_nor_reaches_the_other_whose_key_is_the_same(parent: Path) -> None:
    script = """
us, them = UserSite(US), UserSite(THEM)
for site in (us, them):
    site.do("query()", "until(is_heard)")
us.do("recycle()")
assert them.do("len(overview.look(own=False).commands)") == 0
them.do(f"may_not({str(place)!r})")
them.do("query()", "until(is_heard)")
stats = "__import__('django_db_pooling.pooling').pooling.stats()['default'].closed_by_reason['recycled']"
assert us.do(stats) > 0 == them.do(stats)
for site in (us, them):
    assert site.do("is_heard()")
    files = list((parent / f"django_db_pooling-{site.user}").glob("*/*-report-*"))
    assert [path.stat().st_uid for path in files] == [site.user]
    site.end()
    assert not any(path.exists() for path in files)
"""
    run_sites(script, parent)


def test_who_takes_the_others_place_silences_it_and_no_more(parent: Path) -> None:
    """With links where the other's process would write by its id."""
    script = """
us, them = UserSite(US), UserSite(THEM)
victim = parent / "victim"
us.do(f"open({str(victim)!r}, 'w').write('precious')")
site = status_dir.path().name
for directory in (place, place / site):
    them.do(f"os.mkdir({str(directory)!r})", f"os.chmod({str(directory)!r}, 0o777)")
    for name in (f"{us.pid}.json", f"{us.pid}.new", "package.json"):
        them.do(f"os.symlink({str(victim)!r}, {str(directory / name)!r})")
before = sorted(place.rglob("*"))
us.do("query()", "until(is_silenced)", "time.sleep(2.5)", "query()")
[line] = us.do("[line for line in said if 'share pool status' in line]")
assert f"{place} belongs to user id {THEM}, not to {US}: remove it" in line
assert sorted(place.rglob("*")) == before
assert victim.read_text() == "precious"
them.do(f"os.rename({str(place)!r}, {str(place) + '-away'!r})")
us.do("until(is_heard)", "recycle()")
us.end()
them.end()
"""
    run_sites(script, parent)


def test_a_forked_child_has_a_file_of_its_own_and_leaves_its_parents(parent: Path) -> None:
    """Of the same user."""
    script = """
import os
child = UserSite(0)
child.do("query()", f"until(lambda: heard() == sorted([os.getpid(), {os.getpid()}]))")
child.do("recycle(2)")
child.end()
until(is_heard)
"""
    run_sites(script, parent)
