"""Private servers for tests and the demo: databases and proxies here, a directory in ``tests.slapd``.

Each server has its own data directory and a port of its own on 127.0.0.1, and is gone when the process that
started it is gone, however that ended. Owns processes and files; knows neither Django nor a database driver
and speaks to a server only through a client program, or through HAProxy's socket for administrators.
"""

from tests.servers.haproxy import HAProxy as HAProxy
from tests.servers.mysql import MariaDB as MariaDB
from tests.servers.mysql import MySQL as MySQL
from tests.servers.mysql import MySQLFamily as MySQLFamily
from tests.servers.pgbouncer import PgBouncer as PgBouncer
from tests.servers.postgresql import PostgreSQL as PostgreSQL
from tests.servers.redis import Redis as Redis
from tests.servers.server import HOST as HOST
from tests.servers.server import DatabaseServer as DatabaseServer
from tests.servers.server import Server as Server
from tests.servers.server import ServerError as ServerError
from tests.servers.server import free_port as free_port
from tests.servers.server import need as need
from tests.servers.server import which as which
