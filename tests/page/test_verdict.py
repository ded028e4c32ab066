"""What is at the top of the page while callers wait, and afterwards."""

from __future__ import annotations

import threading

import pytest
from django.core import signals
from django.db import connections
from django.test import Client, override_settings

from django_db_pooling import conf, pooling
from tests.concurrency import PATIENCE, eventually


def test_the_page_says_first_who_waits_and_what_to_do(boss: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conf, "_overrides", {})
    pooling.set_pool_size(1, max_outstanding=1, alias="other")
    over = threading.Event()

    def page() -> str:
        return boss.get("/pools/live/").content.decode()

    def view(path: str) -> None:
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path}
        signals.request_started.send(sender=None, environ=environ)
        with connections["other"].cursor() as cursor:
            cursor.execute("SELECT 1")
        over.wait(PATIENCE)
        signals.request_finished.send(sender=None)

    threads = [threading.Thread(target=view, args=(f"/{number}",)) for number in range(2)]
    with override_settings(ROOT_URLCONF="tests.page.urls_everywhere"):
        eventually(lambda: '<p class="verdict well">No callers are waiting.</p>' in page())
        for thread in threads:
            thread.start()
        try:
            eventually(lambda: "1 caller waits for a connection: all are in use" in page())
            text = page()
        finally:
            over.set()
            for thread in threads:
                thread.join(PATIENCE)
        assert "verdict well" not in text
        assert text.index('<p class="verdict"><strong><a href="#pool-other">other</a>: ') < text.index(
            "<section"
        )
        assert "other.sqlite3, scope request" in text
        eventually(lambda: "verdict well" in page())
    pooling.close_all("other")
