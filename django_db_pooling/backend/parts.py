"""The objects around a wrapper that refer back to it, and how they let go of it."""

from __future__ import annotations

from typing import Any

from django_db_pooling.backend.lease import Leasing


class Part:
    """One of the objects that Django's wrapper makes for itself, and that refer back to it.

    What is in the wrapper's own dictionary comes first: this makes the part again once that is gone.
    """

    def __set_name__(self, owner: type[Any], name: str) -> None:
        self._name = name

    def __get__(self, wrapper: Any, owner: type[Any]) -> Any:
        if wrapper is None:
            return self
        part = wrapper.__dict__[self._name] = getattr(wrapper, f"{self._name}_class")(wrapper)
        return part


class Parts(Leasing):
    """A wrapper that can go without the garbage collector."""

    client, creation, features, introspection, ops, validation = (Part() for _ in range(6))

    def break_cycles(self) -> None:
        """Its thread or greenlet has ended: nothing of it is left for the garbage collector.

        With hundreds of requests waiting, collecting a wrapper costs more than making it. Whoever
        still has this one can go on with it.
        """
        mine = self.__dict__
        for name in PARTS:
            if type(mine.get(name)) is getattr(self, f"{name}_class", None):
                del mine[name]
        mine.pop("wrap_database_errors", None)


PARTS = tuple(name for name, value in vars(Parts).items() if isinstance(value, Part))
