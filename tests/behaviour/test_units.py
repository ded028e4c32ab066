"""Units of work: tasks of each library, management commands and scope() blocks are what requests are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import SimpleNamespace
from typing import Any

import django
import pytest
from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.db import connection, connections, transaction
from django.dispatch import Signal

from django_db_pooling import owner, pooling, units
from tests.behaviour.conftest import (
    another_alias,
    assert_whole,
    committed,
    eventually,
    in_thread,
    one,
    request_finished,
    request_started,
    server_id,
    token,
)
from tests.behaviour.models import Note
from tests.behaviour.test_rest import change, look
from tests.behaviour.workers import WORKERS, Run, at_once, needs
from tests.every_point import Points
from tests.strikes import Struck

pytestmark = [
    pytest.mark.transaction_scope,
    # Workers take their time to start.
    pytest.mark.only("sqlite3", "psycopg", "pymysql"),
    pytest.mark.never("sqlite3", "gevent"),
]


@pytest.fixture(params=WORKERS)
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Runs a function as a unit of work, each in the same thread, which lives on."""
    with WORKERS[request.param]() as run:
        yield run


def in_use(using: str = "default") -> int:
    return pooling.stats(using).in_use


def none_in_use(using: str = "default") -> None:
    eventually(lambda: in_use(using) == 0)


@contextmanager
def alias_in(scope: str) -> Iterator[str]:
    with another_alias(POOL={"SCOPE": scope, "SIZE": 2, "MAX_OUTSTANDING": 4}) as alias:
        yield alias


@pytest.mark.parametrize(("scope", "held"), [("request", 1), ("transaction", 0)])
def test_the_settings_scope_applies_to_the_end_of_the_unit(run: Run, scope: str, held: int) -> None:
    with alias_in(scope) as alias:

        def job() -> tuple[int, bool]:
            token(alias)
            return in_use(alias), connections[alias].connection is not None

        for _ in range(2):
            assert run(job) == (held, bool(held))
            none_in_use(alias)


def test_a_unit_keeps_its_session_and_leaves_nothing_of_it(run: Run) -> None:
    def job() -> Any:
        before = look()
        change()
        return before, look()

    for _ in range(2):
        assert run(job) == (None, "mine")
        none_in_use()
    assert in_thread(look) is None


def test_the_driver_s_connection_is_there_after_a_query(run: Run) -> None:
    """As django-pghistory asks it for its adapters, and other code for its descriptor."""

    def job() -> Any:
        one()
        with transaction.atomic():
            raw = connection.connection
        return raw is connection.connection and raw is not None

    assert run(job)


def test_a_transaction_that_is_left_open_is_rolled_back(run: Run) -> None:
    def job() -> None:
        transaction.set_autocommit(False)
        Note.objects.create(text="never committed")

    run(job)
    none_in_use()
    assert committed() == []
    assert run(lambda: Note.objects.count()) == 0


def test_a_unit_that_fails_gives_back(run: Run) -> None:
    def job() -> None:
        change()
        raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            run(job)
        none_in_use()
    assert run(look) is None


def test_the_holder_is_told_by_its_name(run: Run, request: pytest.FixtureRequest) -> None:
    if request.node.callspec.params["run"] == "scope":
        pytest.skip("a block has no name")

    def job() -> str:
        one()
        [(_, holder)] = [(slot, str(slot.holder)) for slot in _held_slots()]
        return holder

    holder = run(job)
    assert holder.startswith(("task ", "command ")), holder


def _held_slots() -> list[Any]:
    return [wrapper.slot for wrapper in owner.current().holding()]


# -- units inside of others ----------------------------------------------------------------------------


@contextmanager
def request() -> Iterator[None]:
    request_started()
    try:
        yield
    finally:
        request_finished()


class Command(BaseCommand):
    """Does what it was given."""

    def __init__(self, job: Callable[[], Any]) -> None:
        super().__init__()
        self.job = job

    def handle(self, *args: Any, **options: Any) -> None:
        self.job()


def _eager_celery(job: Callable[[], Any]) -> None:
    app = needs("celery").Celery("eager")
    app.task(name="eager")(job).apply(throw=True)


def _immediate_huey(job: Callable[[], Any]) -> None:
    needs("huey").MemoryHuey(immediate=True).task()(job)().get()


def _command(job: Callable[[], Any]) -> None:
    call_command(Command(job))


def _immediate_django_tasks(job: Callable[[], Any], library: str = "django_tasks") -> None:
    result = needs(library).task()(at_once(job)).enqueue()
    assert result.status == "SUCCESSFUL", result.errors


def _immediate_task_of_django(job: Callable[[], Any]) -> None:
    _immediate_django_tasks(job, "django.tasks")


EAGER = [_eager_celery, _immediate_huey, _immediate_django_tasks, _command]
if django.VERSION >= (6, 0):
    EAGER.append(_immediate_task_of_django)


@pytest.mark.parametrize("perform", EAGER)
def test_what_a_request_runs_itself_is_part_of_the_request(perform: Callable[[Any], None]) -> None:
    with request():
        perform(change)
        assert look() == "mine"
        assert in_use() == 1
    assert in_use() == 0


@pytest.mark.parametrize("perform", EAGER)
def test_outside_of_a_request_it_is_a_unit_of_its_own(perform: Callable[[Any], None]) -> None:
    seen: list[bool] = []

    def job() -> None:
        change()
        seen.append(connection.connection is not None)

    perform(job)
    assert seen == [True]
    assert in_use() == 0
    assert look() is None


@pytest.mark.parametrize("perform", EAGER)
def test_a_transaction_around_it_goes_on(perform: Callable[[Any], None]) -> None:
    def inside() -> None:
        Note.objects.create(text="inside")

    with pytest.raises(ZeroDivisionError), transaction.atomic():
        Note.objects.create(text="before")
        perform(inside)
        assert Note.objects.count() == 2
        raise ZeroDivisionError
    assert committed() == []


def test_a_task_in_a_worker_that_is_a_command_is_a_unit_of_its_own() -> None:
    """As db_worker of django-tasks-db runs them, in the command's own thread."""
    signals = needs("django_tasks.signals")
    backend = needs("django_tasks.backends.base").BaseTaskBackend

    class Result:
        id = "one"
        status = "RUNNING"
        task = type("Task", (), {"module_path": "tests.work"})

    def worker() -> None:
        number = server_id()
        signals.task_started.send(sender=backend, task_result=Result)
        with another_alias(POOL={"SCOPE": "request"}) as alias:
            token(alias)
            assert in_use(alias) == 1
            signals.task_finished.send(sender=backend, task_result=Result)
            assert in_use(alias) == 0
        assert (in_use(), server_id()) == (1, number)

    call_command(Command(worker))
    assert in_use() == 0


@pytest.mark.parametrize("sender", [object, object()], ids=["a class", "an object"])
@pytest.mark.parametrize("task", [SimpleNamespace(module_path="work"), None], ids=["known", "unknown"])
def test_a_task_is_done_whatever_its_library_tells_of_it(sender: object, task: Any) -> None:
    """Backends of django.tasks send their class, or themselves."""
    signals = SimpleNamespace(__name__="tasks", task_started=Signal(), task_finished=Signal())
    units._django_tasks(signals)

    def work() -> list[int]:
        result = SimpleNamespace(id=1, task=task)
        with another_alias(POOL={"SCOPE": "request"}) as alias:
            signals.task_started.send(sender=sender, task_result=result)
            token(alias)
            held = in_use(alias)
            signals.task_finished.send(sender=sender, task_result=result)
            return [held, in_use(alias)]

    assert in_thread(work) == [1, 0]


def test_what_can_t_be_told_of_a_task_is_no_fault_of_the_task() -> None:
    signals = SimpleNamespace(__name__="tasks", task_started=Signal(), task_finished=Signal())
    units._django_tasks(signals)
    # Without an id.
    signals.task_started.send(sender=object, task_result=None)
    signals.task_finished.send(sender=object, task_result=None)


def test_a_unit_whose_end_nobody_told_ends_when_the_next_one_begins() -> None:
    celery = needs("celery")
    signals = needs("celery.signals")
    task = celery.Celery("lost").task(name="lost")(change)

    def job() -> Any:
        signals.task_prerun.send(sender=task, task_id="lost", task=task)
        change("lost")
        signals.task_prerun.send(sender=task, task_id="next", task=task)
        seen = look()
        change("next")
        signals.task_postrun.send(sender=task, task_id="next", task=task)
        return seen, in_use(), look()

    assert in_thread(job) == (None, 0, None)
    none_in_use()


class Library:
    """As one that runs tasks."""

    def perform(self, job: Callable[[], Any]) -> Any:
        return job()


units.around(Library, "perform", lambda library, job: "task", lambda library: False)


@pytest.mark.parametrize("file", ["units.py", "owner.py"])
def test_whatever_strikes_a_unit_the_next_one_begins_and_ends_as_always(file: str) -> None:
    points, library = Points(f"/django_db_pooling/{file}"), Library()

    def work() -> Any:
        before = look()
        change()
        return before

    def rounds() -> int:
        number = 0
        while not points.is_over:
            number += 1
            with suppress(Struck), points.strike(number):
                library.perform(work)
            assert library.perform(work) is None, number
            assert in_use() == 0, number
            assert owner.current().units == {}
            assert owner.current().scopes == ()
        return number

    assert in_thread(rounds) > 5


# -- threads without an end ----------------------------------------------------------------------------


def test_threads_without_an_end_hold_nothing_at_rest() -> None:
    """More of them than there are connections, each with a changed session."""
    pooling.set_pool_size(1, max_outstanding=2, timeout=20)
    over = threading.Event()
    done = threading.Barrier(6 + 1)

    def work() -> None:
        token()
        change()
        done.wait(30)
        over.wait(30)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    try:
        done.wait(30)
        in_thread(token)
    finally:
        over.set()
        for thread in threads:
            thread.join(30)
    assert_whole()
