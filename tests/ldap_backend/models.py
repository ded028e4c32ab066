"""Users and groups of tests.slapd."""

from __future__ import annotations

from typing import Any

import ldapdb.models
from ldapdb.models import fields

from tests.slapd import SUFFIX


class Router:
    """Directory models are where the running test says; an object stays where it is from."""

    alias = "nowhere"

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        if not issubclass(model, ldapdb.models.Model):
            return None
        instance = hints.get("instance")
        return (instance and instance._state.db) or Router.alias

    db_for_write = db_for_read

    def allow_migrate(self, db: str, *arguments: Any, **hints: Any) -> bool:
        return db == "default"


class Person(ldapdb.models.Model):
    base_dn = f"ou=people,{SUFFIX}"

    uid = fields.CharField(db_column="uid", primary_key=True)
    cn = fields.CharField(db_column="cn")
    sn = fields.CharField(db_column="sn")
    mail = fields.CharField(db_column="mail", blank=True)
    number = fields.IntegerField(db_column="uidNumber")
    team = fields.IntegerField(db_column="gidNumber")
    home = fields.CharField(db_column="homeDirectory")
    phones = fields.ListField(db_column="telephoneNumber", blank=True, default=list)

    class Meta:
        abstract = True
        managed = False
        ordering = ["uid"]

    def __str__(self) -> str:
        return str(self.uid)


class User(Person):
    object_classes = ["inetOrgPerson", "posixAccount"]


class Account(Person):
    object_classes = ["inetOrgPerson", "posixAccount", "exampleAccount"]

    is_active = fields.BooleanField(db_column="exampleActive", default=False)


class Group(ldapdb.models.Model):
    base_dn = f"ou=groups,{SUFFIX}"
    object_classes = ["posixGroup"]

    name = fields.CharField(db_column="cn", primary_key=True)
    number = fields.IntegerField(db_column="gidNumber")
    members = fields.ListField(db_column="memberUid", default=list)

    class Meta:
        managed = False
        ordering = ["name"]

    def __str__(self) -> str:
        return str(self.name)
