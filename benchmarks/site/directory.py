"""The model of the directory's people; imported only if django-ldapdb is installed."""

from __future__ import annotations

from ldapdb.models import Model
from ldapdb.models.fields import CharField

from benchmarks.site.settings import PEOPLE


class Person(Model):  # type: ignore[misc]
    base_dn = PEOPLE
    object_classes = ["inetOrgPerson"]

    uid = CharField(db_column="uid")
    name = CharField(db_column="cn")

    class Meta:
        app_label = "site"
        managed = False
