#!/bin/sh
# Sees to it that the machine has what `make $1` needs besides Python packages: venv, demo, test, mysql or
# instructions.
# On Debian as root what is missing is installed, without starting the machine's own database services. MySQL
# is unpacked into a folder of its own instead, for which it takes no root.
# Otherwise it is named; `make demo` and `make test` can do without, CI cannot.
# can-use-ldap only says, by its status, whether there is a server and what it takes to compile a client.
set -eu

purpose=$1
python=${PYTHON:-python3}
apt_seconds=600
missing=

need() { # need PACKAGE COMMAND...: the package is missing unless the command succeeds
    package=$1
    shift
    "$@" >/dev/null 2>&1 || missing="$missing $package"
}

has_server() { # has_server MODULE CLASS
    "$python" -c "from tests.$1 import $2; raise SystemExit($2.find() is None)"
}

has_python_headers() {
    "$python" -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")'
}

has_mariadb_library() {
    command -v mariadb_config || command -v mysql_config || pkg-config --exists libmariadb
}

has_header() {
    echo "#include <$1>" | gcc -E -
}

get_mysql() {
    has_server servers MySQL && return
    echo "Unpacking MySQL" >&2
    with_time_limit sh "$(dirname "$0")/get_mysql.sh" \
        "$("$python" -c 'from tests.servers import MySQL; print(MySQL.folder())')" >&2 && return
    echo "MySQL can't be had." >&2
    [ -z "${CI:-}" ] || exit 1
    echo "Going on: tests that need it are skipped." >&2
}

with_time_limit() {
    DEBIAN_FRONTEND=noninteractive timeout "$apt_seconds" "$@" </dev/null
}

install_missing() {
    echo "Installing$missing"
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
        trap 'exit 130' INT TERM
        printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
        chmod 755 /usr/sbin/policy-rc.d
    fi
    with_time_limit apt-get update -qq &&
        with_time_limit apt-get install -qq -y --no-install-recommends $missing >/dev/null
}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "$python must be Python 3.11 or later; make PYTHON=... names another" >&2
    exit 1
}

case $purpose in
can-use-ldap)
    has_server slapd Slapd >/dev/null 2>&1 && has_python_headers >/dev/null 2>&1 &&
        has_header ldap.h >/dev/null 2>&1 && has_header sasl/sasl.h >/dev/null 2>&1
    exit
    ;;
venv)
    need python3-venv "$python" -c 'import ensurepip, venv'
    without='no virtual environment can be made'
    ;;
demo)
    [ -n "${DATABASE_URL:-}" ] || need mariadb-server has_server servers MariaDB
    [ -n "${DATABASE_URL:-}" ] || need openssl command -v openssl
    without='the demo uses SQLite'
    ;;
test)
    need mariadb-server has_server servers MariaDB
    need postgresql has_server servers PostgreSQL
    need pgbouncer has_server servers PgBouncer
    need haproxy has_server servers HAProxy
    need redis-server command -v redis-server
    need slapd has_server slapd Slapd
    need ldap-utils command -v ldapsearch
    need openssl command -v openssl
    need chromium command -v chromium
    need gcc command -v gcc
    need pkg-config command -v pkg-config
    need libmariadb-dev has_mariadb_library
    need libldap-dev has_header ldap.h
    need libsasl2-dev has_header sasl/sasl.h
    need python3-dev has_python_headers
    without='tests that need them are skipped'
    ;;
instructions)
    need valgrind has_header valgrind/callgrind.h
    need gcc command -v gcc
    need libc6-dev has_header time.h
    without='no instructions can be counted'
    ;;
mysql)
    need mariadb-client command -v mariadb
    need openssl command -v openssl
    without='nobody can ask MySQL'
    ;;
*)
    echo "usage: $0 venv|demo|test|mysql|instructions|can-use-ldap" >&2
    exit 2
    ;;
esac

if [ -z "$missing" ] || { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && install_missing; }; then
    if [ "$purpose" = test ] || [ "$purpose" = mysql ]; then
        get_mysql
    fi
    exit 0
fi
echo "Missing:$missing (Debian's names; as root: apt-get install --no-install-recommends$missing)" >&2
if [ "$purpose" = venv ] || [ "$purpose" = instructions ] || [ -n "${CI:-}" ]; then
    echo "Without them $without." >&2
    exit 1
fi
echo "Going on: $without." >&2
