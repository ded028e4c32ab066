"""A driver's socket stays open, wherever a signal's handler raises while something is done to it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

import pytest

from django_db_pooling.drivers.sockets import keep_alive, shut_down
from tests.unit.fakes import interrupted_at

PACKAGE = "/django_db_pooling/"


@pytest.mark.parametrize(
    "function",
    [lambda one: keep_alive(one.fileno(), 60, ()), lambda one: shut_down(one.fileno())],
    ids=["keep_alive", "shut_down"],
)
def test_an_interruption_closes_no_driver_s_socket(function: Callable[[socket.socket], None]) -> None:
    """Its number could be another connection's by then, and the driver would talk there."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        point = 0
        more = True
        while more:
            with socket.create_connection(listener.getsockname()) as one, listener.accept()[0]:
                inode = os.fstat(one.fileno()).st_ino
                more = interrupted_at(point, PACKAGE, lambda: function(one))  # noqa: B023
                assert os.fstat(one.fileno()).st_ino == inode, f"interrupted at point {point}"
            point += 1
    assert point > 3
