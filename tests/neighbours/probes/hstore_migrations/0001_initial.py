from __future__ import annotations

from typing import Any

from django.contrib.postgres.fields import HStoreField
from django.contrib.postgres.operations import HStoreExtension
from django.db import migrations, models


def write(apps: Any, schema_editor: Any) -> None:
    apps.get_model("probes", "Item").objects.create(attributes={"written": "by the migration"})


class Migration(migrations.Migration):
    atomic = False
    initial = True
    operations = [
        HStoreExtension(),
        migrations.CreateModel(
            "Item",
            [("id", models.BigAutoField(primary_key=True)), ("attributes", HStoreField(default=dict))],
        ),
        migrations.RunPython(write, migrations.RunPython.noop),
        # A literal of the new type in a statement of the schema.
        migrations.AddConstraint(
            "Item",
            models.CheckConstraint(condition=~models.Q(attributes={"for": "bidden"}), name="not_forbidden"),
        ),
        migrations.RunPython(write, migrations.RunPython.noop),
    ]
