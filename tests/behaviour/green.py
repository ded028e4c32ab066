"""gevent, as a project would set it up for its driver."""

from __future__ import annotations

import os


def patch() -> None:
    from gevent import monkey

    monkey.patch_all()
    if os.environ["POOLING_DRIVER"] == "psycopg2":
        import gevent.socket
        import psycopg2.extensions

        def wait(connection: psycopg2.extensions.connection) -> None:
            """What psycogreen does: psycopg2 waits in gevent."""
            while (state := connection.poll()) != psycopg2.extensions.POLL_OK:
                if state == psycopg2.extensions.POLL_READ:
                    gevent.socket.wait_read(connection.fileno())
                else:
                    gevent.socket.wait_write(connection.fileno())

        psycopg2.extensions.set_wait_callback(wait)
