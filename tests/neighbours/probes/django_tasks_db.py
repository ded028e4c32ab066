from __future__ import annotations

from typing import Any

from django.core.management import call_command
from django.db import connection, models, transaction
from django.http import HttpRequest, HttpResponse
from django.urls import path
from django_tasks import default_task_backend, task

from tests.neighbours.site import visit_all


class Item(models.Model):
    name = models.CharField(max_length=50)


@task()
def write(name: str) -> int:
    with transaction.atomic():
        Item.objects.create(name=name)
    return len(name)


@task()
def fail(name: str) -> None:
    with transaction.atomic():
        Item.objects.create(name=name)
        raise ValueError(name)


@task()
def change_the_session(name: str) -> str:
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SHOW application_name")
            before = cursor.fetchone()[0]
            cursor.execute("SET application_name = 'of a task'")
            return str(before)
    return ""


def enqueue(request: HttpRequest) -> HttpResponse:
    which = {"write": write, "fail": fail, "change": change_the_session}[request.GET["task"]]
    result = which.enqueue(request.GET["name"])
    return HttpResponse(result.status)


def enqueue_and_roll_back(request: HttpRequest) -> HttpResponse:
    with transaction.atomic():
        write.enqueue(request.GET["name"])
        transaction.set_rollback(True)
    return HttpResponse("rolled back")


urlpatterns = [path("enqueue", enqueue), path("back", enqueue_and_roll_back)]


def _results() -> Any:
    from django_tasks_db.models import DBTaskResult

    rows = DBTaskResult.objects.values_list(
        "task_path", "status", "return_value", "args_kwargs", "exception_class_path"
    )
    return sorted(map(str, rows)), sorted(Item.objects.values_list("name", flat=True))


def probe_enqueued_by_requests() -> Any:
    paths = [
        f"/enqueue?task={task}&name={task}{number}"
        for number in range(6)
        for task in ("write", "fail", "change")
    ]
    return visit_all([*paths, *(f"/back?name=back{number}" for number in range(4))]), _results()


def probe_done_by_a_worker() -> Any:
    call_command("db_worker", batch=True, interval=0.01, startup_delay=False, verbosity=0)
    return _results(), default_task_backend.alias


def probe_pruned() -> Any:
    call_command("prune_db_task_results", min_age_days=0, verbosity=0)
    return _results()
