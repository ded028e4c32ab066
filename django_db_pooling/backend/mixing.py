"""Subclasses of the project's own classes."""

from __future__ import annotations

from typing import Any

_subclasses: dict[tuple[type[Any], type[Any]], type[Any]] = {}


def mixed(mixin: type[Any], cls: type[Any]) -> type[Any]:
    """The subclass of ``cls`` with ``mixin`` before it, always the same one. It goes by ``cls``'s name."""
    subclass = _subclasses.get((mixin, cls))
    if subclass is None:
        names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
        subclass = _subclasses.setdefault((mixin, cls), type(cls.__name__, (mixin, cls), names))
    return subclass
