"""The page in the admin: found in the index, whole under each of its URLs, its permission to be granted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth.models import Permission, User
from django.contrib.contenttypes.models import ContentType
from django.core.management import call_command
from django.db import OperationalError, connection
from django.test import Client, override_settings
from django.test.utils import CaptureQueriesContext, override_script_prefix

from django_db_pooling.dashboard import access
from django_db_pooling.dashboard.access import COOKIE, PERMISSION
from django_db_pooling.models import ConnectionPool
from tests.concurrency import eventually

IN_ADMIN = "/admin/django_db_pooling/connectionpool/"
EVERYWHERE = "tests.page.urls_everywhere"
TABLE = ConnectionPool._meta.db_table
ROOTS = [
    pytest.param("tests.page.urls", IN_ADMIN, "/admin/", id="admin alone"),
    pytest.param(EVERYWHERE, IN_ADMIN, "/admin/", id="admin"),
    pytest.param(EVERYWHERE, "/bosses/django_db_pooling/connectionpool/", "/bosses/", id="another site"),
    pytest.param(EVERYWHERE, "/pools/", "/admin/", id="included"),
    pytest.param(EVERYWHERE, "/de/pools/", "/admin/", id="translated"),
]


@contextmanager
def without_a_question_to_the_table() -> Iterator[None]:
    with CaptureQueriesContext(connection) as queries:
        yield
    assert not [query for query in queries if f'"{TABLE}"' in query["sql"]]


def permission() -> Permission:
    label, _, codename = PERMISSION.partition(".")
    return Permission.objects.get(content_type__app_label=label, codename=codename)


# -- the index -----------------------------------------------------------------------------------------


def test_whoever_may_use_the_admin_finds_the_page_in_its_index(boss: Client, clerk: Client) -> None:
    for client in (boss, clerk):
        for index in ("/admin/", "/admin/django_db_pooling/"):
            with without_a_question_to_the_table():
                html = client.get(index).content.decode()
            assert re.search(rf'<a href="{IN_ADMIN}"[^>]*>Connection pools</a>', html)
            assert f"{IN_ADMIN}add/" not in html


def test_in_a_stricter_site_it_is_there_for_those_whom_the_site_lets_in(boss: Client, clerk: Client) -> None:
    with override_settings(ROOT_URLCONF=EVERYWHERE):
        assert "/bosses/django_db_pooling/connectionpool/" in boss.get("/bosses/").content.decode()
        assert clerk.get("/bosses/django_db_pooling/connectionpool/").status_code == 403
        assert clerk.get("/bosses/django_db_pooling/connectionpool/overview.json").status_code == 403
        assert clerk.get(IN_ADMIN).status_code == 200


def test_a_cookie_of_one_site_is_of_no_use_in_a_stricter_one(
    clerk: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the database can't be asked; a browser sends it elsewhere only where somebody makes it do so."""

    def unanswered(*arguments: Any) -> None:
        raise OperationalError

    with override_settings(ROOT_URLCONF=EVERYWHERE):
        clerk.get(IN_ADMIN)
        monkeypatch.setattr(access, "_authenticated", unanswered)
        assert clerk.get(IN_ADMIN).status_code == 200
        assert clerk.get("/bosses/django_db_pooling/connectionpool/").status_code == 503


def test_nothing_can_be_added_changed_or_deleted_and_nothing_has_a_history(boss: Client) -> None:
    with without_a_question_to_the_table():
        for path in ("add/", "default/change/", "default/delete/", "default/history/", "default/"):
            assert boss.get(IN_ADMIN + path).status_code in (404, 405), path
            assert boss.post(IN_ADMIN + path).status_code == 404, path


# -- the page ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "/prefix"])
@pytest.mark.parametrize(("urls", "root", "admin"), ROOTS)
def test_the_page_works_under_each_of_its_urls(
    urls: str, root: str, admin: str, prefix: str, boss: Client
) -> None:
    # The handlers for servers set the prefix, the test client's doesn't.
    settings = override_settings(ROOT_URLCONF=urls, FORCE_SCRIPT_NAME=prefix or None)
    with settings, override_script_prefix(f"{prefix}/"):
        with without_a_question_to_the_table():
            page = boss.get(root)
            live = boss.get(f"{root}live/")
            told = boss.get(f"{root}overview.json").json()
            done = boss.post(f"{root}default/recycle/")
        html = page.content.decode()
        assert (page.status_code, live.status_code) == (200, 200)
        assert f'data-url="{prefix}{root}live/"' in html
        assert f'<a href="{prefix}{root}">Reload now</a>' in html
        assert f'<a href="{prefix}{admin}">Administration</a>' in html
        for text in (html, live.content.decode()):
            assert re.findall(r'action="(.*?/default/.*?)"', text) == [
                f"{prefix}{root}default/{action}/" for action in ("recycle", "close-idle", "pause")
            ]
        assert "default" in [pool["alias"] for pool in told["pools"]]
        assert (done.status_code, done["Location"]) == (303, f"{prefix}{root}#pool-default")
        assert page.cookies[COOKIE]["path"] == f"{prefix}{root}"


@pytest.mark.parametrize(("urls", "root", "admin"), ROOTS)
def test_strangers_are_sent_to_the_login_of_its_site(urls: str, root: str, admin: str) -> None:
    with override_settings(ROOT_URLCONF=urls):
        answer = Client().get(root)
        assert (answer.status_code, answer["Location"]) == (302, f"{admin}login/?next={root}")
        for path in ("live/", "overview.json"):
            assert Client().get(root + path).status_code == 403
        assert Client().post(f"{root}default/recycle/").status_code == 403


def test_it_says_why_its_process_can_tell_nothing(boss: Client, tmp_path: Path) -> None:
    def page() -> str:
        return boss.get("/pools/").content.decode()

    missing = tmp_path / "two" / "three"
    with override_settings(ROOT_URLCONF=EVERYWHERE, DB_POOL_STATUS_DIR=str(missing)):
        eventually(lambda: f"{missing} can&#x27;t be created, No such file or directory" in page())
    with override_settings(ROOT_URLCONF=EVERYWHERE):
        eventually(lambda: "can’t share their status" not in page())


# -- the permission ------------------------------------------------------------------------------------


def form_of(html: str, **changes: Any) -> dict[str, Any]:
    """What a browser would send for the form of a user, with some changes."""
    form = dict(re.findall(r'<input type="(?:text|email)" name="(\w+)"(?: value="([^"]*)")?', html))
    return form | dict.fromkeys(re.findall(r'name="(\w+)"[^>]*\bchecked', html), "on") | changes


def test_the_permission_is_granted_in_the_admin(boss: Client, clerk: Client) -> None:
    act = f"{IN_ADMIN}default/recycle/"
    assert clerk.post(act).status_code == 403
    assert "<form" not in clerk.get(IN_ADMIN).content.decode()
    page = f"/admin/auth/user/{User.objects.get(username='clerk').pk}/change/"
    with without_a_question_to_the_table():
        html = boss.get(page).content.decode()
        text = " | connection pool | Can recycle and close connections"
        [number] = re.findall(rf'<option value="(\d+)">[^<|]+{re.escape(text)}</option>', html)
        for granted in ([number], []):
            answer = boss.post(page, form_of(html, user_permissions=granted))
            assert (answer.status_code, answer["Location"]) == (302, "/admin/auth/user/")
            assert clerk.post(act).status_code == (303 if granted else 403)
            assert ("<form" in clerk.get(IN_ADMIN).content.decode()) == bool(granted)


def test_there_is_one_permission_and_no_other() -> None:
    assert list(Permission.objects.filter(content_type__app_label="django_db_pooling")) == [permission()]


# -- no rows ------------------------------------------------------------------------------------------


def test_who_walks_through_all_models_finds_nothing_and_asks_nothing() -> None:
    assert ConnectionPool in apps.get_models()
    with without_a_question_to_the_table():
        for manager in (ConnectionPool._default_manager, ConnectionPool._base_manager):
            assert (manager.count(), list(manager.using("default").iterator())) == (0, [])
            assert not manager.filter(pk="default").exists()
        assert not ContentType.objects.get_for_model(ConnectionPool).get_all_objects_for_this_type()


def test_deleting_what_belongs_to_it_asks_nothing_of_it() -> None:
    kind = permission().content_type
    with without_a_question_to_the_table():
        call_command("remove_stale_contenttypes", interactive=False, verbosity=0)
        assert permission().content_type == kind
        User.objects.create_user("leaver").delete()
        kind.delete()
        call_command("migrate", verbosity=0)
    assert permission().content_type.model_class() is ConnectionPool


def test_a_dump_of_everything_asks_nothing_of_it() -> None:
    for options in ({}, {"use_natural_primary_keys": True, "use_natural_foreign_keys": True}):
        for of_all in (False, True):
            out = StringIO()
            with without_a_question_to_the_table():
                call_command("dumpdata", stdout=out, use_base_manager=of_all, **options)
            assert '"model": "auth.user"' in out.getvalue()
            assert '"model": "django_db_pooling' not in out.getvalue()
