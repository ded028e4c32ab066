"""A private LDAP server, OpenLDAP's slapd, with users and groups and counts of what its clients do."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.servers import Server, ServerError, free_port, need, which

SUFFIX = "dc=example,dc=org"
ADMIN_DN = f"cn=admin,{SUFFIX}"
ADMIN_PASSWORD = "admin-secret"
OBSERVER_DN = "cn=observer,cn=Monitor"
OBSERVER_PASSWORD = "observer-secret"
MODULES = Path("/usr/lib/ldap")
SCHEMAS = [Path(f"/etc/ldap/schema/{name}.schema") for name in ("core", "cosine", "nis", "inetorgperson")]
TEAMS = 10
FIRST_ID = 5000
DATA_BYTES = 256 * 1024 * 1024
# slapd allocates a table with an entry for each file that it may open, which can be a million in a container.
MAX_FILES = 4096


@dataclass(frozen=True)
class Activity:
    """What clients have done since the server's start, and how many of them are connected now.

    Operations count from when the server begins with them, so that one that a client has an answer to is
    always in, and so is one that was refused.
    """

    binds: int
    searches: int
    adds: int
    modifies: int
    deletes: int
    connections: int
    total_connections: int


class Slapd(Server):
    """An LDAP server with ``users`` users, ``user000`` to begin with, in teams of which each is a group.

    Whoever has bound may read, the admin may write. Lines of ``extra`` go to the configuration's global part,
    such as "idletimeout 1". With ``tls`` it speaks LDAPS at ``tls_uri`` and StartTLS at ``uri``. It closes
    a connection at once, uncounted, only when it has as many files open as it may.
    """

    scheme = "ldap"
    accounts = ("openldap", "nobody")
    stop_signal = signal.SIGTERM

    base_dn = SUFFIX
    people_dn = f"ou=people,{SUFFIX}"
    groups_dn = f"ou=groups,{SUFFIX}"
    admin_dn = ADMIN_DN
    password = ADMIN_PASSWORD

    def __init__(self, users: int = 200, extra: Iterable[str] = (), tls: bool = False) -> None:
        super().__init__(extra)
        self.users = users
        self.tls = tls
        self.tls_port = free_port()
        self._lock = threading.Lock()
        self._observations: int | None = 0

    @classmethod
    def find(cls) -> str | None:
        programs = [which(name) for name in ("slapd", "slapadd", "ldapsearch")]
        files = [*SCHEMAS, MODULES / "back_mdb.so"]
        return programs[0] if all(programs) and all(os.access(path, os.R_OK) for path in files) else None

    @property
    def uri(self) -> str:
        return f"ldap://{self.host}:{self.port}"

    @property
    def tls_uri(self) -> str:
        """Where it speaks TLS from the first byte on (only with tls=True)."""
        return f"ldaps://{self.host}:{self.tls_port}"

    @staticmethod
    def uid(number: int) -> str:
        return f"user{number:03}"

    def user_dn(self, number: int) -> str:
        return f"uid={self.uid(number)},{self.people_dn}"

    def user_password(self, number: int) -> str:
        return f"{self.uid(number)}-secret"

    def monitor(self) -> Activity:
        """What clients do and have done, without what this method has done itself.

        Each call is one connection with one bind and one search by an account that nobody else uses. All the
        calls before and this one are subtracted from the counts, and connections that this account has bound
        are not counted, so that it does not matter when the server notices that they are gone.
        """
        with self._lock:
            if self._observations is None:
                raise ServerError("an observation has failed, nobody knows how far; restart the server")
            own, self._observations = self._observations + 1, None
            entries = self._observe()
            self._observations = own
        operations = {
            kind: int(entries[f"cn={kind},cn=operations,cn=monitor"]["monitorOpInitiated"])
            for kind in ("bind", "search", "add", "modify", "delete")
        }
        authorized = [
            entry.get("monitorConnectionAuthzDN", "").lower()
            for dn, entry in entries.items()
            if dn.startswith("cn=connection ")
        ]
        return Activity(
            binds=operations["bind"] - own,
            searches=operations["search"] - own,
            adds=operations["add"],
            modifies=operations["modify"],
            deletes=operations["delete"],
            connections=len(authorized) - authorized.count(OBSERVER_DN.lower()),
            total_connections=int(entries["cn=total,cn=connections,cn=monitor"]["monitorCounter"]) - own,
        )

    def _observe(self) -> dict[str, dict[str, str]]:
        """The entries that count something, by their names in lower case."""
        command = [need("ldapsearch"), "-LLL", "-o", "ldif-wrap=no", "-H", self.uri, "-x"]
        command += ["-D", OBSERVER_DN, "-y", str(self._password_file), "-b", "cn=Monitor"]
        command += ["(|(objectClass=monitorOperation)(objectClass=monitorConnection)(cn=Total))"]
        command += ["monitorOpInitiated", "monitorConnectionAuthzDN", "monitorCounter"]
        entries = {}
        for block in self._run_client(command, LDAPNOINIT="1").split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
            if fields:
                entries[fields["dn"].lower()] = fields
        return entries

    def _check(self) -> None:
        # Each time it starts it counts from nothing, and what fails until it answers reaches nobody.
        self._observations = 0
        self.monitor()

    @property
    def _configuration(self) -> Path:
        return self.directory / "slapd.conf"

    def expire_certificate(self) -> None:
        """From now on it shows a certificate that is out of date; it restarts for that."""
        command = [need("openssl"), "x509", "-in", str(self.certificate), "-signkey", str(self._key)]
        self._run_set_up([*command, "-days", "-1", "-out", str(self.certificate)])
        self.restart()

    @property
    def _password_file(self) -> Path:
        return self.directory / "password"

    def _initialise(self) -> None:
        self._password_file.write_text(OBSERVER_PASSWORD)
        if self.tls:
            self._make_certificate()
        data, entries = self.directory / "data", self.directory / "entries.ldif"
        self._run_set_up(["mkdir", str(data)])
        self._configuration.write_text("".join(f"{line}\n" for line in self._settings()))
        entries.write_text("\n".join(self._entries()))
        for path in (self._configuration, entries):
            path.chmod(0o644)
        command = [need("slapadd"), "-q", "-f", str(self._configuration), "-b", SUFFIX, "-l", str(entries)]
        self._run_set_up(command)

    def _settings(self) -> Iterator[str]:
        yield from (f"include {schema}" for schema in SCHEMAS)
        # Debian has built the monitor in, which makes loading it do nothing.
        yield from (f"modulepath {MODULES}", "moduleload back_mdb", "moduleload back_monitor")
        # What it has to say goes to the log file, nothing to the machine's.
        yield "loglevel 0"
        if self.tls:
            yield f"TLSCertificateFile {self.certificate}"
            yield f"TLSCertificateKeyFile {self._key}"
        yield from self.extra
        yield from ("database monitor", f"rootdn {OBSERVER_DN}", f"rootpw {OBSERVER_PASSWORD}")
        yield "access to * by * none"
        yield from ("database mdb", f"suffix {SUFFIX}", f"rootdn {ADMIN_DN}", f"rootpw {ADMIN_PASSWORD}")
        yield from (f"directory {self.directory / 'data'}", f"maxsize {DATA_BYTES}", "dbnosync")
        # A search for an attribute without an index leaves a line in the log.
        yield "index objectClass,uidNumber,gidNumber,memberUid,member eq"
        yield "index uid,cn,sn,givenName,mail pres,eq,sub"
        yield "access to attrs=userPassword by self write by anonymous auth by * none"
        yield "access to * by users read by * none"

    def _entries(self) -> Iterator[str]:
        yield f"dn: {SUFFIX}\nobjectClass: dcObject\nobjectClass: organization\ndc: example\no: Example\n"
        for dn in (self.people_dn, self.groups_dn):
            yield f"dn: {dn}\nobjectClass: organizationalUnit\n"
        for number in range(self.users):
            uid = self.uid(number)
            yield (
                f"dn: {self.user_dn(number)}\nobjectClass: inetOrgPerson\nobjectClass: posixAccount\n"
                f"uid: {uid}\ncn: User {number:03}\nsn: {number:03}\ngivenName: User\n"
                f"mail: {uid}@example.org\nuidNumber: {FIRST_ID + number}\n"
                f"gidNumber: {FIRST_ID + number % TEAMS}\nhomeDirectory: /home/{uid}\n"
                f"userPassword: {self.user_password(number)}\n"
            )
        for team in range(TEAMS):
            members = range(team, self.users, TEAMS)
            yield (
                f"dn: cn=team{team},{self.groups_dn}\nobjectClass: posixGroup\ncn: team{team}\n"
                f"gidNumber: {FIRST_ID + team}\n"
                + "".join(f"memberUid: {self.uid(number)}\n" for number in members)
            )
        if self.users:
            leaders = range(min(TEAMS, self.users))
            yield (
                f"dn: cn=leaders,{self.groups_dn}\nobjectClass: groupOfNames\ncn: leaders\n"
                + "".join(f"member: {self.user_dn(number)}\n" for number in leaders)
            )

    def _command(self) -> list[str]:
        addresses = f"{self.uri}/ {self.tls_uri}/" if self.tls else f"{self.uri}/"
        # -d keeps it in the foreground; "none" is what it says at every level, where 0 has it say nothing.
        command = [need("slapd"), "-f", str(self._configuration), "-h", addresses, "-d", "none"]
        limit = f'ulimit -S -n {MAX_FILES} 2>/dev/null; exec "$@"'
        return ["/bin/sh", "-c", limit, "slapd", *command]
