"""The workers of the libraries that run tasks, each with one thread that lives on, in this process."""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from queue import Queue
from typing import Any

from django.core.management.base import BaseCommand

from tests.concurrency import PATIENCE
from tests.conftest import give_up, require
from tests.servers import Redis

Job = Callable[[], Any]
Run = Callable[[Job], Any]

# What the tasks have to do; a name travels through the libraries' queues.
_jobs: dict[str, Job] = {}
# What they have returned or raised.
_results: Queue[Any] = Queue()


def work(name: str) -> str:
    """The body of each task."""
    try:
        result = _jobs[name]()
    except BaseException as error:
        _results.put(error)
        raise
    _results.put(result)
    return name


def perform() -> None:
    """The body of a task that is performed at once; django.tasks wants a function of a module."""
    _jobs["at once"]()


def at_once(job: Job) -> Callable[[], None]:
    _jobs["at once"] = job
    return perform


def _result(name: str) -> Any:
    result = _results.get(timeout=PATIENCE)
    if isinstance(result, BaseException):
        raise result
    return result


def needs(name: str) -> Any:
    """A library of the extra "test"."""
    try:
        return importlib.import_module(name)
    except ImportError:
        give_up(f"{name} is not installed; `pip install .[test]` does it")


def _nothing(**kwargs: Any) -> None:
    pass


@contextmanager
def celery() -> Iterator[Run]:
    needs("celery")
    testing = needs("celery.contrib.testing.worker")
    # With a receiver of this it leaves the loggers of the process alone.
    importlib.import_module("celery.signals").setup_logging.connect(_nothing)
    app = importlib.import_module("celery").Celery("tests", broker="memory://", backend="cache+memory://")
    task = app.task(name="work")(work)
    with testing.start_worker(app, pool="solo", perform_ping_check=False, shutdown_timeout=PATIENCE):
        yield _sender(task.delay)


@contextmanager
def huey() -> Iterator[Run]:
    broker = needs("huey").MemoryHuey()
    consumer = broker.create_consumer(workers=1, periodic=False, check_worker_health=False)
    consumer.start()
    try:
        yield _sender(broker.task()(work))
    finally:
        consumer.stop(graceful=True)


@contextmanager
def dramatiq() -> Iterator[Run]:
    library = needs("dramatiq")
    broker = importlib.import_module("dramatiq.brokers.stub").StubBroker()
    actor = library.actor(broker=broker, max_retries=0)(work)
    worker = library.Worker(broker, worker_timeout=50, worker_threads=1)
    worker.start()
    try:
        yield _sender(actor.send)
    finally:
        worker.stop()


@contextmanager
def rq() -> Iterator[Run]:
    library, redis = needs("rq"), needs("redis")
    require(Redis)
    with ExitStack() as stack:
        client = redis.Redis(port=stack.enter_context(Redis()).port)
        queue = library.Queue(connection=client)
        worker = _worker_of(library)([queue], connection=client)
        stop = threading.Event()

        def loop() -> None:
            while not stop.is_set():
                worker.work(burst=True)
                time.sleep(0.01)

        thread = threading.Thread(target=loop)
        thread.start()
        stack.callback(thread.join)
        stack.callback(stop.set)
        yield _sender(lambda name: queue.enqueue(work, name))


def _worker_of(library: Any) -> Any:
    timeouts = importlib.import_module("rq.timeouts")

    class Worker(library.SimpleWorker):  # type: ignore[misc]
        # In a thread that isn't the main one there are no signals.
        death_penalty_class = timeouts.TimerDeathPenalty

        def _install_signal_handlers(self) -> None:
            pass

    return Worker


@contextmanager
def command() -> Iterator[Run]:
    class Command(BaseCommand):
        def add_arguments(self, parser: Any) -> None:
            parser.add_argument("name")

        def handle(self, *args: Any, name: str, **options: Any) -> None:
            work(name)

    management = importlib.import_module("django.core.management")
    with _thread(lambda name: management.call_command(Command(), name)) as send:
        yield _sender(send)


@contextmanager
def django_tasks() -> Iterator[Run]:
    """As its worker does it that has its queue in the database, with the published signals."""
    signals, backend = _django_tasks()

    class Backend(backend):  # type: ignore[misc]
        pass

    def perform(name: str) -> None:
        class Result:
            id = name
            status = "RUNNING"
            task = type("Task", (), {"module_path": "tests.work"})

        signals.task_started.send(sender=Backend, task_result=Result)
        try:
            work(name)
        finally:
            signals.task_finished.send(sender=Backend, task_result=Result)

    with _thread(perform) as send:
        yield _sender(send)


def _django_tasks() -> tuple[Any, Any]:
    """Those of Django, since 6.0, else those of the package from which they come."""
    try:
        signals = importlib.import_module("django.tasks.signals")
    except ImportError:
        signals = needs("django_tasks.signals")
    name = signals.__name__.removesuffix(".signals")
    return signals, importlib.import_module(f"{name}.backends.base").BaseTaskBackend


@contextmanager
def scope() -> Iterator[Run]:
    from django_db_pooling import pooling

    with _thread(pooling.scope()(work)) as send:
        yield _sender(send)


def _sender(send: Callable[[str], object]) -> Run:
    def run(job: Job) -> Any:
        name = f"job {len(_jobs)}"
        _jobs[name] = job
        send(name)
        return _result(name)

    return run


@contextmanager
def _thread(perform: Callable[[str], object]) -> Iterator[Callable[[str], object]]:
    """One that does what it is sent."""
    names: Queue[str | None] = Queue()

    def loop() -> None:
        while (name := names.get()) is not None:
            try:
                perform(name)
            except Exception:
                continue

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield names.put
    finally:
        names.put(None)
        thread.join(PATIENCE)


WORKERS = {each.__name__: each for each in (celery, huey, dramatiq, rq, command, django_tasks, scope)}
