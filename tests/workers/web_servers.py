"""The web servers that run Django, one a line, and how they are started with the site of tests/site."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from tests.workers.requirements import WEB_SERVERS

WSGI = "tests.site.wsgi:application"
ASGI = "tests.site.asgi:application"
GUNICORN = f"gunicorn {WSGI} --bind {{host}}:{{port}}"
GEVENT = f"{GUNICORN} -k gevent -w 2"
UVICORN = f"python -m uvicorn {ASGI} --host {{host}} --port {{port}} --no-access-log"
# With a scheduler in each process.
SOCKETS = "tests.workers.sockets:application"
SCHEDULED = "gunicorn tests.workers.scheduled:application --bind {host}:{port} -k gthread --threads 8 -w 2"
GRANIAN = "granian --host {host} --port {port} --workers 2"
UWSGI = f"pyuwsgi --http-socket {{host}}:{{port}} --master --die-on-term --pythonpath . --module {WSGI} -p 2"
RUNSERVER = "python -m django runserver {host}:{port}"


@dataclass(frozen=True)
class WebServer:
    """One way to serve a site.

    ``processes``: that answer. ``called``: what each is by the package; left out: the command's first word.
    ``is_green``: a request is a greenlet's, so that it can't have an event loop.
    ``reload``: what the first process is sent while it is under load. ``replaces``: processes of its own
    accord. ``goodbye``: the database server sees each connection end as the protocol wants it; else no code
    of ours runs at the end of a process. ``short``: part of ``make test``.
    """

    name: str
    command: str
    processes: int = 1
    libraries: tuple[str, ...] = ()
    called: str = ""
    is_green: bool = False
    reload: signal.Signals | None = None
    replaces: bool = False
    goodbye: bool = True
    short: bool = False

    @property
    def programs(self) -> list[str]:
        """What its processes are called."""
        return [self.called or self.command.split()[0]] * self.processes


TABLE = [
    WebServer("gunicorn-sync", f"{GUNICORN} -w 2", 2, short=True),
    WebServer("gunicorn-gthread", f"{GUNICORN} -k gthread --threads 8 -w 2", 2, short=True),
    WebServer("gunicorn-gthread-hup", f"{GUNICORN} -k gthread --threads 8 -w 2", 2, reload=signal.SIGHUP),
    WebServer("gunicorn-gevent", GEVENT, 2, is_green=True, short=True),
    WebServer("gunicorn-gevent-preload", f"{GEVENT} --preload", 2, is_green=True),
    WebServer("gunicorn-gevent-max-requests", f"{GEVENT} --max-requests 8", 2, is_green=True, replaces=True),
    WebServer("gunicorn-gevent-hup", GEVENT, 2, is_green=True, reload=signal.SIGHUP),
    WebServer("gunicorn-asgi", f"gunicorn {ASGI} --bind {{host}}:{{port}} -k asgi -w 2", 2, short=True),
    WebServer("gunicorn-apscheduler", SCHEDULED, 2, WEB_SERVERS),
    WebServer("uvicorn", UVICORN, called="uvicorn", short=True),
    WebServer("uvicorn-workers", f"{UVICORN} --workers 2", 2, called="uvicorn"),
    WebServer("uvicorn-reload", f"{UVICORN} --reload --reload-dir tests/workers", called="uvicorn"),
    WebServer("daphne", f"daphne -b {{host}} -p {{port}} {ASGI}", libraries=WEB_SERVERS),
    WebServer("hypercorn", f"hypercorn -b {{host}}:{{port}} -w 2 {ASGI}", 2, WEB_SERVERS),
    WebServer("granian-wsgi", f"{GRANIAN} --interface wsgi {WSGI}", 2, WEB_SERVERS),
    WebServer("granian-asgi", f"{GRANIAN} --interface asgi {ASGI}", 2, WEB_SERVERS),
    WebServer(
        "waitress",
        f"waitress-serve --host {{host}} --port {{port}} --threads 8 {WSGI}",
        libraries=WEB_SERVERS,
        goodbye=False,
    ),
    WebServer("runserver", f"{RUNSERVER} --noreload", called="django runserver", goodbye=False),
    WebServer("runserver-reload", RUNSERVER, called="django runserver", goodbye=False),
]

CHANNELS = [
    WebServer("daphne", f"daphne -b {{host}} -p {{port}} {SOCKETS}", libraries=WEB_SERVERS),
    WebServer(
        "uvicorn",
        f"python -m uvicorn {SOCKETS} --host {{host}} --port {{port}} --no-access-log",
        libraries=WEB_SERVERS,
        called="uvicorn",
    ),
]

# Each kills a worker whose request takes longer than 3 seconds.
TIME_LIMITS = [
    WebServer("gunicorn-sync", f"{GUNICORN} -w 2 --timeout 3", 2),
    WebServer("gunicorn-gevent", f"{GEVENT} --timeout 3", 2, is_green=True),
    WebServer("uwsgi", f"{UWSGI} --harakiri 3", 2, called="uwsgi", goodbye=False),
    WebServer("uwsgi-lazy", f"{UWSGI} --harakiri 3 --lazy-apps", 2, called="uwsgi", goodbye=False),
    WebServer("uwsgi-threads", f"{UWSGI} --harakiri 3 --threads 6", 2, called="uwsgi", goodbye=False),
    WebServer(
        "uwsgi-threads-lazy",
        f"{UWSGI} --harakiri 3 --threads 6 --lazy-apps",
        2,
        called="uwsgi",
        goodbye=False,
    ),
]
