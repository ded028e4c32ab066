"""One table, which the runner creates: the site needs no migrations."""

from __future__ import annotations

from django.db import models

from benchmarks.rows import TABLE


class Row(models.Model):
    id = models.IntegerField(primary_key=True)
    text = models.CharField(max_length=100)

    class Meta:
        app_label = "site"
        db_table = TABLE
        managed = False
