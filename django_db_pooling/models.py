"""A model without a table: for the permission to act on pools, and for the entry in the admin's index."""

from __future__ import annotations

from django.db import models


class _NoRows(models.Manager["ConnectionPool"]):
    """No rows, without a query, for code that goes through all models, such as dumpdata."""

    def get_queryset(self) -> models.QuerySet[ConnectionPool]:
        return super().get_queryset().none()


class ConnectionPool(models.Model):
    """Has a content type and a permission, but no rows."""

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
