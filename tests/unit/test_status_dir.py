"""The directory that the processes of a site share: nothing of anybody else's is touched or trusted.

Real files, and real users where this runs as root: a forked child becomes one of them.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from django_db_pooling import status_dir
from django_db_pooling.status_dir import MAX_BYTES, Kind, Refused
from django_db_pooling.workers import commands, reports
from django_db_pooling.workers import publish as publish_module
from django_db_pooling.workers.commands import Action, Listener
from django_db_pooling.workers.publish import Publisher
from tests.concurrency import in_child
from tests.conftest import give_up
from tests.strangers import Strangers

# Of nobody's account: a user is a number.
US, THEM = 54321, 54322
OLD = (0, time.time() - 3600)
SECRET = "of somebody else"


@pytest.fixture
def parent() -> Iterator[Path]:
    """As /tmp: anybody can write there, and reach it."""
    path = Path(tempfile.mkdtemp(prefix="parent-"))
    path.chmod(0o1777)
    yield path
    shutil.rmtree(path)


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch, parent: Path) -> SimpleNamespace:
    settings = SimpleNamespace(DB_POOL_STATUS_DIR=parent, SECRET_KEY="only for tests")
    monkeypatch.setattr(status_dir, "settings", settings)
    monkeypatch.setattr(status_dir, "_ignored", set())
    # Each change is logged at once.
    monkeypatch.setattr(publish_module, "QUIET", 0.0)
    return settings


def publish(publisher: Publisher | None = None) -> Publisher:
    publisher = publisher or Publisher()
    publisher.publish({}, {}, [])
    return publisher


def heard() -> list[str]:
    return [report.id for report in reports.read()]


def ours() -> Path:
    """The directory between the parent and the site's."""
    return status_dir.path().parent


def report_file(publisher: Publisher) -> Path:
    return status_dir.path() / f"django_db_pooling-report-{publisher.id}.json"


def as_user(user: int, function: Callable[[], Any]) -> Any:
    """What the function returns in a process of another user."""
    if os.geteuid() != 0:
        give_up("only root can become other users")

    def work() -> Any:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        return function()

    return in_child(work)


def why_not() -> str:
    """The directory can't be used; an empty string where it can."""
    try:
        with status_dir.opened(make=True):
            return ""
    except Refused as error:
        return str(error)


def everything(below: Path) -> dict[str, Any]:
    """What there is, and what is in it."""
    return {
        str(path.relative_to(below)): path.read_bytes() if path.is_file() else None
        for path in sorted(below.rglob("*"))
    }


# -- what is made -------------------------------------------------------------------------------------


def test_what_is_made_is_for_one_user_and_says_nothing_of_the_key(parent: Path) -> None:
    publisher = publish()
    assert [path.name for path in parent.iterdir()] == [f"django_db_pooling-{os.geteuid()}"]
    assert [path.name for path in status_dir.path().iterdir()] == [report_file(publisher).name]
    for path in (ours(), status_dir.path()):
        assert path.stat().st_mode & 0o777 == 0o700
    assert report_file(publisher).stat().st_mode & 0o777 == 0o600
    assert heard() == [publisher.id]


def test_two_sites_of_a_user_do_not_hear_each_other(settings: SimpleNamespace) -> None:
    publish()
    commands.give("default", Action.RECYCLE, "boss")
    settings.SECRET_KEY = b"another"
    assert heard() == commands.given() == []
    publisher = publish()
    assert heard() == [publisher.id]


@pytest.mark.parametrize("name", ["HOST", "PORT", "NAME"])
def test_nor_do_two_copies_of_a_site_that_have_one_key(settings: SimpleNamespace, name: str) -> None:
    def start(database: dict[str, Any]) -> None:
        status_dir._default_database.cache_clear()
        settings.DATABASES = {"default": database, "other": {"NAME": secrets.token_hex()}}

    live = {"HOST": "localhost", "PORT": 3306, "NAME": "shop"}
    try:
        start(live)
        publisher = publish()
        commands.give("default", Action.RECYCLE, "boss")
        start({**live, name: "1"})
        assert heard() == commands.given() == []
        copy = publish()
        start({**live, "PASSWORD": "a new one"})
        assert heard() == [publisher.id] and len(commands.given()) == 1
        # As a test run does with its own.
        settings.DATABASES["default"]["NAME"] = "test_shop"
        assert heard() == [publisher.id]
        start({})
        assert heard() == []
        start({**live, name: "1"})
        assert heard() == [copy.id]
    finally:
        status_dir._default_database.cache_clear()


class NoKey:
    def __init__(self, parent: Path) -> None:
        self.DB_POOL_STATUS_DIR = parent

    @property
    def SECRET_KEY(self) -> str:
        raise ImproperlyConfigured("The SECRET_KEY setting must not be empty.")


def test_without_a_key(monkeypatch: pytest.MonkeyPatch, parent: Path) -> None:
    monkeypatch.setattr(status_dir, "settings", NoKey(parent))
    publisher, listener = publish(), Listener()
    command = commands.give("default", Action.RECYCLE, "boss")
    assert (heard(), listener.due()) == ([publisher.id], [command])


def test_without_the_setting_it_lies_where_temporary_files_do(
    settings: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, parent: Path
) -> None:
    del settings.DB_POOL_STATUS_DIR
    monkeypatch.setattr(tempfile, "tempdir", str(parent))
    publisher = publish()
    assert status_dir.path().is_relative_to(parent) and heard() == [publisher.id]


def test_of_the_parent_the_last_part_is_made(
    settings: SimpleNamespace, parent: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings.DB_POOL_STATUS_DIR = parent / "one"
    publisher = publish()
    assert heard() == [publisher.id]
    settings.DB_POOL_STATUS_DIR = parent / "two" / "three"
    publish()
    assert heard() == []
    assert f"{parent / 'two' / 'three'} can't be created, No such file or directory" in caplog.text


def test_where_it_is_turned_off_nothing_is_made(settings: SimpleNamespace, parent: Path) -> None:
    settings.DB_POOL_STATUS_DIR = None
    with pytest.raises(Refused, match="DB_POOL_STATUS_DIR is None"):
        commands.give("default", Action.RECYCLE, "boss")
    assert heard() == commands.given() == Listener().due() == []


@pytest.mark.parametrize("given", [False, 5, "", "relative", Path("relative"), b"/tmp", "/tmp/\0"], ids=repr)
def test_a_setting_that_is_no_absolute_path_is_told_and_nothing_is_made(
    given: Any,
    settings: SimpleNamespace,
    parent: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(parent)
    settings.DB_POOL_STATUS_DIR = given
    words = f"DB_POOL_STATUS_DIR is {given!r}: make it the absolute path of a directory"
    publish()
    assert words in caplog.text
    assert status_dir.refusal() == words
    with pytest.raises(Refused, match="absolute path"):
        commands.give("default", Action.RECYCLE, "boss")
    assert heard() == commands.given() == Listener().due() == []
    assert list(parent.iterdir()) == []


def test_a_parent_that_cannot_be_written(parent: Path, settings: SimpleNamespace) -> None:
    parent.chmod(0o755)
    words = f"{parent}/django_db_pooling-{US} can't be created, Permission denied: let user id {US} write"
    assert as_user(US, why_not).startswith(words)
    parent.chmod(0o1733)
    assert as_user(US, why_not) == ""


def test_where_there_is_no_directory_for_temporary_files(
    settings: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container that is mounted for reading only."""
    del settings.DB_POOL_STATUS_DIR

    def gettempdir() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", gettempdir)
    assert status_dir.path().parts[:2] == ("/", "tmp") and heard() == []


def test_what_a_cleaner_of_temporary_files_has_removed_is_made_again() -> None:
    publisher, listener = publish(), Listener()
    for gone in (report_file(publisher), status_dir.path(), ours()):
        shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
        assert heard() == listener.due() == []
        publish(publisher)
        assert heard() == [publisher.id]


def test_a_directory_is_looked_at_by_descriptor_so_that_renaming_it_leads_nowhere(parent: Path) -> None:
    """Whoever can write into the parent swaps ours between the look and the write."""
    publish()
    with status_dir.opened(make=True) as directory:
        ours().rename(parent / "moved")
        elsewhere = parent / "elsewhere"
        (elsewhere / status_dir.path().name).mkdir(parents=True)
        ours().symlink_to(elsewhere)
        directory.write(Kind.REPORT, status_dir.new_id(1), b"x")
        directory.clear(Kind.REPORT, -1)
    assert list((elsewhere / status_dir.path().name).iterdir()) == []


def test_nothing_is_left_where_a_file_cannot_be_written() -> None:
    publish()
    one = status_dir.new_id(1)
    with status_dir.opened() as directory:
        # A directory that bears the file's name.
        (status_dir.path() / f"django_db_pooling-report-{one}.json").mkdir()
        with pytest.raises(Refused, match=f"{status_dir.path()} can't be written: Is a directory"):
            directory.write(Kind.REPORT, one, b"x")
    assert not [path for path in status_dir.path().iterdir() if path.name.endswith(".new")]


# -- what is removed -----------------------------------------------------------------------------------


def test_a_strangers_file_survives(parent: Path) -> None:
    strangers = Strangers(parent)
    publisher, listener = publish(), Listener()
    strangers.settle()
    assert len(list(status_dir.path().iterdir())) > 2
    command = commands.give("default", Action.RECYCLE, "boss")
    assert listener.due() == [command]
    publish()
    publisher.remove()
    strangers.assert_untouched()


def test_what_killed_processes_have_left_is_cleared_away() -> None:
    killed, alive = publish(), publish()
    unfinished = Path(f"{report_file(killed)}.{'0' * 32}.new")
    unfinished.touch()
    for path in (report_file(killed), unfinished):
        os.utime(path, OLD)
    publish()
    assert killed.id not in heard() and alive.id in heard()
    assert not report_file(killed).exists() and not unfinished.exists()


def test_a_process_that_ends_removes_its_own_file_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = publish(), publish()
    one.remove()
    assert heard() == [other.id]
    # In a forked child that nobody has told of it.
    in_child(other.remove)
    assert heard() == [other.id]
    # Nothing is made for that.
    shutil.rmtree(ours())
    other.remove()
    Publisher().remove()
    assert not ours().exists()


# -- what is read --------------------------------------------------------------------------------------


def test_processes_with_the_same_pid_are_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of two containers that share a volume."""
    one, other = publish(), publish()
    assert [report.pid for report in reports.read()] == [os.getpid()] * 2
    assert set(heard()) == {one.id, other.id}


def test_a_process_that_is_gone_is_not_heard_and_in_another_container_only_silence_tells(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def elsewhere() -> str:
        publish_module.pid_space = lambda: "another kernel"
        return publish().id

    here, far = in_child(lambda: publish().id), in_child(elsewhere)
    assert report_file(SimpleNamespace(id=here)).exists()
    assert heard() == [far]
    monkeypatch.setattr(reports, "MAX_SILENCE", 0.0)
    assert heard() == []


@pytest.mark.parametrize("seconds", [-60, 60])
def test_reports_of_another_time_are_not_heard(monkeypatch: pytest.MonkeyPatch, seconds: int) -> None:
    """The clock was set meanwhile."""
    publish()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + seconds)
    assert heard() == []
    assert heard() == [] and publish().id in heard()


def plant_link(path: Path, target: Path) -> None:
    path.symlink_to(target)


def plant_hard_link(path: Path, target: Path) -> None:
    os.link(target, path)


def plant_fifo(path: Path, target: Path) -> None:
    os.mkfifo(path)


def plant_folder(path: Path, target: Path) -> None:
    path.mkdir()


def plant_large(path: Path, target: Path) -> None:
    with path.open("wb") as file:
        file.write(b"[")
        file.truncate(100 * MAX_BYTES)


PLANTS = [plant_link, plant_hard_link, plant_fifo, plant_folder, plant_large]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("plant", PLANTS)
@pytest.mark.parametrize("kind", list(Kind))
def test_what_is_no_plain_file_is_ignored(
    parent: Path, plant: Callable[[Path, Path], None], kind: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    publisher, listener = publish(), Listener()
    command = commands.give("default", Action.RECYCLE, "boss")
    source = {Kind.REPORT: publisher.id, Kind.COMMAND: command.id}[kind]
    target = parent / "target"
    target.write_bytes((status_dir.path() / f"django_db_pooling-{kind}-{source}.json").read_bytes())
    planted = status_dir.path() / f"django_db_pooling-{kind}-{status_dir.new_id(7)}.json"
    plant(planted, target)
    before = target.read_bytes()
    for _ in range(3):
        assert heard() == [publisher.id] and commands.given() == [command]
        listener.due()
        publish(publisher)
    assert caplog.text.count(str(planted)) == 1
    os.utime(planted, OLD, follow_symlinks=False)
    publish(), listener.due()
    assert target.read_bytes() == before


def test_what_lies_where_this_process_writes_is_replaced_and_not_followed(parent: Path) -> None:
    publisher = publish()
    victim = parent / "victim"
    victim.write_text(SECRET)
    report_file(publisher).unlink()
    report_file(publisher).symlink_to(victim)
    publish(publisher)
    assert victim.read_text() == SECRET
    assert heard() == [publisher.id]


# -- what is refused -----------------------------------------------------------------------------------


def refused(caplog: pytest.LogCaptureFixture, path: Path, words: str) -> None:
    """Nothing is told nor heard there; the log says once why and what to do, and when it works again."""
    caplog.clear()
    publisher, listener = Publisher(), Listener()
    before = everything(path.parent)
    for _ in range(3):
        publish(publisher)
        assert heard() == commands.given() == listener.due() == []
        with pytest.raises(OSError, match=re.escape(words)):
            commands.give("default", Action.RECYCLE, "boss")
    publisher.remove()
    assert everything(path.parent) == before
    [record] = caplog.records
    assert vars(record)["pool_event"] == "status"
    assert str(path) in record.getMessage() and words in record.getMessage()
    reason = status_dir.refusal()
    assert reason is not None and words in reason


def test_a_process_knows_why_it_can_tell_nothing(parent: Path) -> None:
    """Also where the directory can be trusted, on a full disk for example."""
    publisher = publish()
    assert publisher.refusal is None
    report_file(publisher).unlink()
    report_file(publisher).mkdir()
    publish(publisher)
    assert publisher.refusal == f"{status_dir.path()} can't be written: Is a directory"
    report_file(publisher).rmdir()
    publish(publisher)
    assert publisher.refusal is None


def works_again(caplog: pytest.LogCaptureFixture, publisher: Publisher) -> None:
    caplog.clear()
    publish(publisher)
    assert "works again" in caplog.text
    assert heard() == [publisher.id]


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o750, 0o701])
@pytest.mark.parametrize("which", [ours, status_dir.path])
def test_a_directory_that_others_can_enter(
    which: Callable[[], Path], mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = publish()
    which().chmod(mode)
    report_file(publisher).unlink()
    refused(caplog, which(), f"open to other users (mode {mode:04o}): give it mode 0700")
    publish(publisher)
    which().chmod(0o700)
    works_again(caplog, publisher)


@pytest.mark.parametrize("which", [ours, status_dir.path])
def test_a_link_and_a_file_in_place_of_the_directory(
    which: Callable[[], Path], parent: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish()
    shutil.rmtree(which())
    elsewhere = parent / "elsewhere"
    elsewhere.mkdir(0o700)
    which().symlink_to(elsewhere)
    refused(caplog, which(), "is a symbolic link: remove it")
    assert list(elsewhere.iterdir()) == []
    which().unlink()
    which().write_text("x")
    refused(caplog, which(), "is not a directory: remove it")
    publisher = Publisher()
    publish(publisher)
    which().unlink()
    works_again(caplog, publisher)


def test_words_say_once_that_it_comes_and_goes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(publish_module, "QUIET", 3600.0)
    publisher = publish()
    for _ in range(5):
        ours().chmod(0o777)
        publish(publisher)
        ours().chmod(0o700)
        publish(publisher)
    assert len(caplog.records) == 1


# -- two users -----------------------------------------------------------------------------------------


def test_two_users_share_a_parent_and_nothing_else(parent: Path) -> None:
    def tell() -> str:
        publisher = publish()
        commands.give("default", Action.RECYCLE, "boss")
        assert heard() == [publisher.id] and len(commands.given()) == 1
        return str(ours())

    def pry(path: str) -> None:
        tell()
        other = Path(path)
        for forbidden in (
            lambda: list(other.iterdir()),
            lambda: (other / "x").touch(),
            lambda: other.rename(parent / "mine"),
            lambda: other.rmdir(),
            lambda: other.chmod(0o777),
        ):
            with pytest.raises(PermissionError):
                forbidden()

    mine = as_user(US, tell)
    before = everything(Path(mine))
    as_user(THEM, lambda: pry(mine))
    assert everything(Path(mine)) == before
    assert sorted(path.stat().st_uid for path in parent.iterdir()) == [US, THEM]


def old_files(below: Path) -> None:
    """Some that would be removed where the directory was ours."""
    for kind in Kind:
        for ending in ("", f".{'0' * 32}.new"):
            path = below / f"django_db_pooling-{kind}-{status_dir.new_id(1)}.json{ending}"
            path.write_text(SECRET)
            os.utime(path, OLD)


def steps(parent: Path, caplog: pytest.LogCaptureFixture) -> dict[str, Callable[[Path], str]]:
    """What another user has put in place of our directory, and how it is refused."""

    def own_directory(place: Path) -> str:
        place.mkdir()
        place.chmod(0o777)
        (place / status_dir.path().name).mkdir()
        (place / status_dir.path().name).chmod(0o777)
        old_files(place)
        old_files(place / status_dir.path().name)
        return f"belongs to user id {THEM}, not to {US}"

    def closed_directory(place: Path) -> str:
        place.mkdir(0o700)
        return f"belongs to user id {THEM}, not to {US}"

    def link(place: Path) -> str:
        place.symlink_to(parent / "private")
        return "is a symbolic link"

    def link_to_nothing(place: Path) -> str:
        place.symlink_to(parent / "victim")
        return "is a symbolic link"

    def fifo(place: Path) -> str:
        os.mkfifo(place, 0o666)
        return "is not a directory"

    return {
        step.__name__: step  # type: ignore[attr-defined]
        for step in (own_directory, closed_directory, link, link_to_nothing, fifo)
    }


@pytest.mark.timeout(30)
@pytest.mark.parametrize("step", ["own_directory", "closed_directory", "link", "link_to_nothing", "fifo"])
def test_what_another_user_has_put_in_place_of_ours_is_refused(
    step: str, parent: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Made first, or after a cleaner of temporary files had removed ours."""
    private = parent / "private"
    place = parent / f"django_db_pooling-{US}"

    def prepare() -> None:
        private.mkdir(0o700)
        (private / status_dir.path().name).mkdir(0o700)
        old_files(private / status_dir.path().name)

    as_user(US, prepare)
    words = as_user(THEM, lambda: steps(parent, caplog)[step](place))
    before = everything(parent)
    as_user(US, lambda: refused(caplog, place, words))
    assert everything(parent) == before


def test_a_parent_that_is_another_users_link_is_not_followed(
    parent: Path, settings: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    private = parent / "private"
    as_user(US, lambda: private.mkdir(0o700))
    as_user(THEM, lambda: (parent / "status").symlink_to(private))
    settings.DB_POOL_STATUS_DIR = parent / "status"
    as_user(US, lambda: refused(caplog, parent / "status", f"is a symbolic link of user id {THEM}"))
    assert list(private.iterdir()) == []
    # One's own is.
    as_user(US, lambda: (parent / "link").symlink_to(private))
    settings.DB_POOL_STATUS_DIR = parent / "link"
    as_user(US, lambda: publish() and None)
    assert list(private.iterdir()) != []


def test_a_parent_where_others_swap_what_they_like(parent: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Writable for a group, without a sticky bit: names can be given to other directories of ours."""
    parent.chmod(0o777)
    photos = parent / "photos"

    def begin() -> str:
        photos.mkdir(0o700)
        (photos / "package.json").write_text(SECRET)
        os.utime(photos / "package.json", OLD)
        return publish().id

    gone = as_user(US, begin)

    def swap() -> None:
        (parent / f"django_db_pooling-{US}").rename(parent / "taken")
        photos.rename(parent / f"django_db_pooling-{US}")

    as_user(THEM, swap)

    def go_on() -> None:
        publisher, listener = publish(), Listener()
        command = commands.give("default", Action.RECYCLE, "boss")
        assert (heard(), listener.due()) == ([publisher.id], [command])
        publisher.remove()
        assert (ours() / "package.json").read_text() == SECRET

    as_user(US, go_on)
    assert list((parent / "taken").glob(f"*/*-{gone}.json"))


def test_files_that_another_user_put_there_while_it_was_open_count_for_nothing(parent: Path) -> None:
    """Its owner has closed it again since."""
    victim = parent / "victim"

    def begin() -> list[str]:
        victim.write_text(SECRET)
        victim.chmod(0o600)
        listener, command = Listener(), commands.give("default", Action.RECYCLE, "boss")
        assert listener.due() == [command]
        publisher = publish()
        texts = [path.read_text() for path in status_dir.path().iterdir()]
        for path in (ours(), status_dir.path()):
            path.chmod(0o777)
        return [str(status_dir.path()), publisher.id, command.id, *texts]

    where, report, one, *texts = as_user(US, begin)
    directory = Path(where)

    def plant() -> None:
        for text in texts:
            told = json.loads(text)
            kind = Kind.REPORT if told["id"] == report else Kind.COMMAND
            told["id"] = status_dir.new_id(8)
            (directory / f"django_db_pooling-{kind}-{told['id']}.json").write_text(json.dumps(told))
        (directory / f"django_db_pooling-report-{status_dir.new_id(9)}.json").symlink_to(victim)
        old_files(directory)

    as_user(THEM, plant)

    def go_on() -> None:
        for path in (ours(), status_dir.path()):
            path.chmod(0o700)
        listener = Listener()
        listener._started -= 100
        assert [command.id for command in listener.due()] == [one]
        assert [command.id for command in commands.given()] == [one]
        publisher = publish()
        assert heard() == [publisher.id]
        assert victim.read_text() == SECRET
        assert sum(path.stat().st_uid == THEM for path in directory.iterdir()) == len(texts) + 4

    as_user(US, go_on)
