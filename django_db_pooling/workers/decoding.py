"""JSON to dataclasses: what isn't exactly what they declare is refused, since nobody knows who wrote it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")
Reader = Callable[[Any], Any]

# A float holds each whole number up to here; no count and no time is near it.
MAX_NUMBER = 2**53


def decode(kind: type[T], text: bytes) -> T:
    """An object of this dataclass. Raises ValueError, which says what is wrong but not what was there.

    Numbers are finite, whole ones not negative. Every field has to be there, and no other.
    """
    try:
        reader: Reader = _reader(cast(Any, kind))
        return cast(T, reader(json.loads(text)))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


@cache
def _reader(kind: Any) -> Reader:
    """Of a type. One for each, since a report has hundreds of values."""
    simple: dict[Any, Reader] = {str: _text, int: _count, float: _number}
    if kind in simple:
        return simple[kind]
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is list:
        return _list(_reader(arguments[0]))
    if origin is tuple and arguments[1:] == (...,):
        items = _list(_reader(arguments[0]))
        return lambda told: tuple(items(told))
    if origin is tuple:
        return _tuple([_reader(argument) for argument in arguments])
    if origin in (dict, Mapping):
        return _dict(_reader(arguments[0]), _reader(arguments[1]))
    if origin is UnionType and arguments[1:] == (NoneType,):
        some = _reader(arguments[0])
        return lambda told: None if told is None else some(told)
    if is_dataclass(kind):
        return _object(kind)
    if issubclass(kind, StrEnum):
        return _choice(kind)
    raise TypeError(f"no JSON is known for {kind}")


def _text(told: Any) -> str:
    if type(told) is not str:
        raise ValueError("no text")
    try:
        told.encode()
    except UnicodeEncodeError:
        # Half of a surrogate pair: no page and no terminal takes it.
        raise ValueError("no text") from None
    return told


def _count(told: Any) -> int:
    if type(told) is not int or not 0 <= told <= MAX_NUMBER:
        raise ValueError("no count")
    return told


def _number(told: Any) -> float:
    if type(told) not in (int, float) or not -MAX_NUMBER <= told <= MAX_NUMBER or not math.isfinite(told):
        raise ValueError("no number")
    return float(told)


def _choice(kind: type[StrEnum]) -> Reader:
    def read(told: Any) -> StrEnum:
        if told not in list(kind):
            raise ValueError("something unknown")
        return kind(told)

    return read


def _list(item: Reader) -> Reader:
    def read(told: Any) -> list[Any]:
        if type(told) is not list:
            raise ValueError("no list")
        return [item(one) for one in told]

    return read


def _tuple(items: list[Reader]) -> Reader:
    def read(told: Any) -> tuple[Any, ...]:
        if type(told) is not list or len(told) != len(items):
            raise ValueError(f"no list of {len(items)}")
        return tuple(item(one) for item, one in zip(items, told, strict=True))

    return read


def _dict(key: Reader, value: Reader) -> Reader:
    def read(told: Any) -> dict[Any, Any]:
        if type(told) is not dict:
            raise ValueError("no object")
        return {key(name): value(one) for name, one in told.items()}

    return read


def _object(kind: Any) -> Reader:
    hints = get_type_hints(kind)
    readers = {field.name: _reader(hints[field.name]) for field in fields(kind)}

    def read(told: Any) -> Any:
        if type(told) is not dict or told.keys() != readers.keys():
            raise ValueError(f"not the fields of a {kind.__name__}")
        values = {}
        for name, reader in readers.items():
            try:
                values[name] = reader(told[name])
            except ValueError as inner:
                # Words of ours.
                raise ValueError(f"{name}: {inner}") from None
        return kind(**values)

    return read
