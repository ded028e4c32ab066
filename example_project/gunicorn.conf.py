"""`gunicorn -c example_project/gunicorn.conf.py` serves the example site, from any directory."""

import os
from pathlib import Path

chdir = str(Path(__file__).resolve().parent)
wsgi_app = "bank_site.wsgi"
bind = f"{os.environ.get('HOST', '127.0.0.1')}:{os.environ.get('PORT', '8000')}"

worker_class = "gevent"
workers = int(os.environ.get("WEB_CONCURRENCY", "1"))
worker_connections = 1000

timeout = 30
graceful_timeout = 10
keepalive = 5

# Several gunicorns of one user would share the socket's default path.
control_socket_disable = True
