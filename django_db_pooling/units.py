"""Units of work besides requests: tasks of the libraries that run them, and management commands.

Inside of one the settings' SCOPE applies, and at its end what it has checked out is given back. None of the
libraries is imported here: what is loaded already, or will be, is found by the name of its module.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import weakref
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from django_db_pooling import owner
from django_db_pooling.log import extra, logger, redact, safe_label
from django_db_pooling.pool.holders import Holder
from django_db_pooling.process import upkeep
from django_db_pooling.process.observers import observers
from django_db_pooling.process.tasks import Tasks

_tasks = Tasks()


class Worker(Holder):
    """Who holds connections in a unit of work."""

    __slots__ = ("_label",)

    def __init__(self, mine: owner.Owner, label: str) -> None:
        super().__init__(weakref.ref(mine))
        self._label = label

    @property
    def request(self) -> str | None:
        return safe_label(self._label)


class Unit(owner.scope):
    """``key``: tells it apart from others of its kind; of one that is a call, a weak reference to an object
    that lives as long as the call.
    """

    def __init__(self, kind: str, key: object, label: Callable[[], str]) -> None:
        super().__init__()
        self.kind = kind
        self.key = key
        # A library's object may raise whatever it likes.
        self._label = _tasks.run(f"naming a task of {kind}", label) or "task"
        self._outside: Holder | None = None

    @property
    def goes_on(self) -> bool:
        return isinstance(self.key, weakref.ref) and self.key() is not None

    def begin(self, mine: owner.Owner) -> None:
        # First of all: what interrupts this leaves a unit that the next one of its kind ends.
        mine.units = {**mine.units, self.kind: self}
        self._outside = mine.outside
        self.__enter__()
        mine.outside = Worker(mine, self._label)

    def end(self, mine: owner.Owner) -> None:
        if self._before:
            mine.outside = self._outside
            self.__exit__()
        mine.units = {kind: unit for kind, unit in mine.units.items() if unit is not self}


def begin(kind: str, key: object, label: Callable[[], str], *, is_inside: bool = False) -> None:
    """``is_inside``: it is part of the request or the unit that calls it, if there is one. ``label``: for the
    log.
    """
    mine = owner.current()
    if is_inside and (mine.request or mine.scopes):
        return
    before = mine.units.get(kind)
    if before is not None:
        if before.goes_on:
            return
        # Nobody told its end.
        before.end(mine)
    Unit(kind, key, label).begin(mine)


def end(kind: str, key: object) -> None:
    mine = owner.current()
    unit = mine.units.get(kind)
    if unit is not None and unit.key == key:
        unit.end(mine)


def _watching(receiver: Callable[..., None]) -> Callable[..., None]:
    """Of a library's signal: a fault of ours is none of its task's."""

    @functools.wraps(receiver)
    def watch(**kwargs: Any) -> None:
        try:
            receiver(**kwargs)
        except Exception as error:
            observers.failed("noticing a task", error)

    return watch


class _Call:
    """Lives as long as the call of a unit."""


def around(cls: Any, name: str, label: Callable[..., str], is_inside: Callable[[Any], bool]) -> None:
    """Make each call of a method a unit of work. ``label`` is called as the method, ``is_inside`` with its
    object.
    """
    cls = next(base for base in cls.__mro__ if name in vars(base))
    method, kind = vars(cls)[name], f"{cls.__module__}.{name}"

    @functools.wraps(method)
    def unit_of_work(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = _Call()
        key = weakref.ref(call)
        try:
            begin(kind, key, functools.partial(label, self, *args, **kwargs), is_inside=is_inside(self))
            return method(self, *args, **kwargs)
        finally:
            end(kind, key)

    setattr(cls, name, unit_of_work)


# -- who tells of them, by the module that has to be loaded ------------------------------------------------


def _commands(module: Any) -> None:
    def label(command: Any, *args: Any, **options: Any) -> str:
        return f"command {type(command).__module__.rpartition('.')[2]}"

    around(module.BaseCommand, "execute", label, lambda command: True)


def _celery(module: Any) -> None:
    def began(sender: Any, task_id: Any, **kwargs: Any) -> None:
        is_eager = getattr(sender.request, "is_eager", False)
        begin("celery", task_id, lambda: f"task {sender.name}", is_inside=is_eager)

    def ended(task_id: Any, **kwargs: Any) -> None:
        end("celery", task_id)

    module.task_prerun.connect(_watching(began), weak=False, dispatch_uid="django_db_pooling")
    module.task_postrun.connect(_watching(ended), weak=False, dispatch_uid="django_db_pooling")


def _django_tasks(module: Any) -> None:
    def began(sender: Any, task_result: Any, **kwargs: Any) -> None:
        # The backend, or its class.
        backend = sender if isinstance(sender, type) else type(sender)
        is_immediate = any(base.__name__ == "ImmediateBackend" for base in backend.__mro__)
        key = task_result.id
        begin(module.__name__, key, lambda: f"task {task_result.task.module_path}", is_inside=is_immediate)

    def ended(task_result: Any, **kwargs: Any) -> None:
        end(module.__name__, task_result.id)

    module.task_started.connect(_watching(began), weak=False, dispatch_uid="django_db_pooling")
    module.task_finished.connect(_watching(ended), weak=False, dispatch_uid="django_db_pooling")


def _dramatiq(module: Any) -> None:
    """Not as a middleware: there may be brokers already, and each has a list of its own."""
    emit_before, emit_after = module.Broker.emit_before, module.Broker.emit_after

    @functools.wraps(emit_before)
    def before(broker: Any, signal: str, *args: Any, **kwargs: Any) -> None:
        if signal == "process_message":
            begin("dramatiq", args[0].message_id, lambda: f"task {args[0].actor_name}")
        emit_before(broker, signal, *args, **kwargs)

    @functools.wraps(emit_after)
    def after(broker: Any, signal: str, *args: Any, **kwargs: Any) -> None:
        try:
            emit_after(broker, signal, *args, **kwargs)
        finally:
            if signal in ("process_message", "skip_message"):
                end("dramatiq", args[0].message_id)

    module.Broker.emit_before, module.Broker.emit_after = before, after


def _huey(module: Any) -> None:
    def label(huey: Any, task: Any, *args: Any, **kwargs: Any) -> str:
        return f"task {type(task).__module__}.{task.name}"

    around(module.Huey, "execute", label, lambda huey: huey.immediate)


def _rq(module: Any) -> None:
    def label(worker: Any, job: Any, *args: Any, **kwargs: Any) -> str:
        return f"task {job.func_name}"

    around(module.Worker, "perform_job", label, lambda worker: False)
    perform_job = module.Worker.perform_job

    @functools.wraps(perform_job)
    def last(worker: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return perform_job(worker, *args, **kwargs)
        finally:
            # A process that was forked for this job ends by os._exit() now.
            if getattr(worker, "is_horse", False):
                upkeep.end()

    module.Worker.perform_job = last


_WAYS = {
    "django.core.management.base": _commands,
    "celery.signals": _celery,
    "django.tasks.signals": _django_tasks,
    "django_tasks.signals": _django_tasks,
    "dramatiq.broker": _dramatiq,
    "huey.api": _huey,
    "rq.worker": _rq,
}
# Those whose module has been seen.
_done: set[str] = set()


def watch() -> None:
    """From now on, in this process, each of them is told of, also by what is loaded later."""
    if _arrivals not in sys.meta_path:
        sys.meta_path.insert(0, _arrivals)
    for name in _WAYS:
        module = sys.modules.get(name)
        if module is not None:
            _hook_into(module)


def _hook_into(module: ModuleType) -> None:
    name = module.__name__
    if name in _WAYS and name not in _done:
        _done.add(name)
        try:
            _WAYS[name](module)
        except Exception as error:
            # Another version of the library may lack what these have.
            _log_unknown(name, redact(error))


def _log_unknown(name: str, error: str) -> None:
    fields = extra("housekeeping", task=name, error=error)
    # A filter of the site's may raise.
    with contextlib.suppress(Exception):
        logger.warning("units of work of %s are code outside of requests here: %s", name, error, extra=fields)


class _Arrivals(MetaPathFinder):
    """Finds nothing itself, and sees which modules are loaded."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name not in _WAYS or name in _done:
            return None
        for finder in sys.meta_path:
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec = None if find is None else find(name, path, target)
            if spec is not None:
                _tasks.run(f"waiting for {name}", functools.partial(_tell_when_loaded, spec.loader))
                return spec  # type: ignore[no-any-return]
        return None


def _tell_when_loaded(loader: Any) -> None:
    load = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        load(module)
        _hook_into(module)

    loader.exec_module = exec_module


_arrivals = _Arrivals()
