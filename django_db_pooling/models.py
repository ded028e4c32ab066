"""A model without a table: the permission to act on pools is its, and the admin's index lists it."""

from __future__ import annotations

from django.db import models


class _NoRows(models.Manager["ConnectionPool"]):
    """For whoever walks through all models, as dumpdata does: it finds nothing, without a query."""

    def get_queryset(self) -> models.QuerySet[ConnectionPool]:
        return super().get_queryset().none()


class ConnectionPool(models.Model):
    """Carries the content type and the permission; no row exists."""

    alias: models.CharField[str, str] = models.CharField(max_length=255, primary_key=True)

    objects = _NoRows()

    class Meta:
        managed = False
        base_manager_name = "objects"
        default_permissions = ()
        permissions = [("change_pools", "Can recycle and close connections")]
        verbose_name = "connection pool"

    def __str__(self) -> str:
        return self.alias
