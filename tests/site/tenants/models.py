"""Who the tenants are, in the public schema. tests/e2e creates the tables."""

from __future__ import annotations

from django.db import models
from django_tenants.models import DomainMixin, TenantMixin


class Tenant(TenantMixin):
    auto_create_schema = False

    class Meta:
        app_label = "tenants"
        managed = False
        db_table = "tenant"


class Domain(DomainMixin):
    tenant = models.ForeignKey(Tenant, models.CASCADE, related_name="domains", db_index=False)

    class Meta:
        app_label = "tenants"
        managed = False
        db_table = "tenant_domain"
