"""The bank's clerks and their teams, which a directory keeps. Nothing here writes to it."""

from __future__ import annotations

import ldapdb.models
from django.conf import settings
from django.urls import reverse
from ldapdb.models.fields import CharField, ListField


class Person(ldapdb.models.Model):
    base_dn = settings.LDAP_BASE_DN
    object_classes = ["inetOrgPerson"]

    uid = CharField(db_column="uid", primary_key=True)
    name = CharField(db_column="cn")
    mail = CharField(db_column="mail")

    class Meta:
        managed = False
        ordering = ["uid"]
        verbose_name_plural = "people"

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("person", args=[self.uid])


class Team(ldapdb.models.Model):
    base_dn = settings.LDAP_BASE_DN
    object_classes = ["posixGroup"]

    name = CharField(db_column="cn", primary_key=True)
    members = ListField(db_column="memberUid")

    class Meta:
        managed = False
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name
