"""One table. tests/e2e creates it, so that the site needs no migrations."""

from __future__ import annotations

from django.db import models


class Row(models.Model):
    text = models.CharField(max_length=100)
    counter = models.IntegerField(default=0)

    class Meta:
        app_label = "site"
        managed = False


class Mark(models.Model):
    """What a request leaves behind: two of them, or none."""

    token = models.CharField(max_length=100)
    part = models.IntegerField()

    class Meta:
        app_label = "site"
        managed = False
