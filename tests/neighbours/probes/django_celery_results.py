from __future__ import annotations

import threading
from typing import Any

from celery import Celery, shared_task
from django.db import connection, models, transaction
from django.http import HttpRequest, HttpResponse
from django.urls import path

from tests.neighbours.site import visit_all

TASKS = 24

app = Celery("probes", broker="memory://", backend="django-db")
app.conf.update(
    result_extended=True, broker_connection_retry_on_startup=True, worker_hijack_root_logger=False
)
app.set_default()


class Item(models.Model):
    name = models.CharField(max_length=50)


@shared_task(name="probes.write")
def write(name: str) -> int:
    with transaction.atomic():
        Item.objects.create(name=name)
    return Item.objects.filter(name=name).count()


@shared_task(name="probes.fail")
def fail(name: str) -> None:
    with transaction.atomic():
        Item.objects.create(name=name)
        raise ValueError(name)


def enqueue(request: HttpRequest) -> HttpResponse:
    with transaction.atomic():
        name = request.GET["name"]
        item = Item.objects.create(name=f"asked for {name}")
        transaction.on_commit(lambda: _enqueue(name))
    return HttpResponse(item.name)


_asked: list[Any] = []
_lock = threading.Lock()


def _enqueue(name: str) -> None:
    with _lock:
        _asked.append((write if int(name) % 3 else fail).delay(name))


urlpatterns = [path("enqueue", enqueue)]


def probe_a_worker_of_threads() -> Any:
    from celery.contrib.testing.worker import start_worker
    from django_celery_results.models import TaskResult

    with start_worker(app, pool="threads", concurrency=6, perform_ping_check=False, loglevel="ERROR"):
        answers = visit_all([f"/enqueue?name={number}" for number in range(TASKS)])
        told = sorted(str(asked.get(timeout=20, propagate=False)) for asked in list(_asked))
    rows = TaskResult.objects.values_list("task_name", "status", "result", "task_args")
    return answers, told, sorted(map(str, rows)), sorted(Item.objects.values_list("name", flat=True))


def probe_no_transaction_is_left_open() -> Any:
    return connection.in_atomic_block, connection.get_autocommit()
