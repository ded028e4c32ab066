"""JSON to dataclasses: what isn't exactly what they declare is refused, since anybody may have written it."""

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
    """An object of this dataclass. Raises ValueError, with what is wrong but without what was there.

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
        return lambda data: tuple(items(data))
    if origin is tuple:
        return _tuple([_reader(argument) for argument in arguments])
    if origin in (dict, Mapping):
        return _dict(_reader(arguments[0]), _reader(arguments[1]))
    if origin is UnionType and arguments[1:] == (NoneType,):
        some = _reader(arguments[0])
        return lambda data: None if data is None else some(data)
    if is_dataclass(kind):
        return _object(kind)
    if issubclass(kind, StrEnum):
        return _choice(kind)
    raise TypeError(f"no JSON is known for {kind}")


def _text(data: Any) -> str:
    if type(data) is not str:
        raise ValueError("no text")
    try:
        data.encode()
    except UnicodeEncodeError:
        # Half of a surrogate pair: no page and no terminal takes it.
        raise ValueError("no text") from None
    return data


def _count(data: Any) -> int:
    if type(data) is not int or not 0 <= data <= MAX_NUMBER:
        raise ValueError("no count")
    return data


def _number(data: Any) -> float:
    if type(data) not in (int, float) or not -MAX_NUMBER <= data <= MAX_NUMBER or not math.isfinite(data):
        raise ValueError("no number")
    return float(data)


def _choice(kind: type[StrEnum]) -> Reader:
    def read(data: Any) -> StrEnum:
        if data not in list(kind):
            raise ValueError("something unknown")
        return kind(data)

    return read


def _list(item: Reader) -> Reader:
    def read(data: Any) -> list[Any]:
        if type(data) is not list:
            raise ValueError("no list")
        return [item(one) for one in data]

    return read


def _tuple(items: list[Reader]) -> Reader:
    def read(data: Any) -> tuple[Any, ...]:
        if type(data) is not list or len(data) != len(items):
            raise ValueError(f"no list of {len(items)}")
        return tuple(item(one) for item, one in zip(items, data, strict=True))

    return read


def _dict(key: Reader, value: Reader) -> Reader:
    def read(data: Any) -> dict[Any, Any]:
        if type(data) is not dict:
            raise ValueError("no object")
        return {key(name): value(one) for name, one in data.items()}

    return read


def _object(kind: Any) -> Reader:
    hints = get_type_hints(kind)
    readers = {field.name: _reader(hints[field.name]) for field in fields(kind)}

    def read(data: Any) -> Any:
        if type(data) is not dict or data.keys() != readers.keys():
            raise ValueError(f"not the fields of a {kind.__name__}")
        values = {}
        for name, reader in readers.items():
            try:
                values[name] = reader(data[name])
            except ValueError as inner:
                # Words of ours.
                raise ValueError(f"{name}: {inner}") from None
        return kind(**values)

    return read
