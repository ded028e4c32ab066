"""What the process of one run is told, and what it tells: JSON on both ways."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import Any

VARIABLE = "DJANGO_DB_POOLING_NEIGHBOURS"

# Of runs with the patch.
SCOPES = ("request", "transaction")


@dataclass(frozen=True)
class Spec:
    """Handed to the process of a run in an environment variable."""

    neighbour: str
    # DATABASES["default"].
    database: dict[str, Any]
    # None: without the patch.
    scope: str | None
    # A file for the report.
    output: str

    @classmethod
    def of_this_process(cls) -> Spec:
        return cls(**json.loads(os.environ[VARIABLE]))

    def environment(self) -> dict[str, str]:
        return {VARIABLE: json.dumps(asdict(self))}


@dataclass(frozen=True)
class Report:
    """Of a run that came to its end. ``most``: sockets to the server at any moment, sampled."""

    # By probe: what it returned, or {"raised": traceback}.
    results: dict[str, Any]
    version: str
    # Of the pool, at the end. Empty without the patch.
    stats: dict[str, int]
    # Whether the process had imported the package under test.
    imported: bool
    most: int = 0

    def raised(self, probe: str) -> str | None:
        """The traceback of what the probe has raised."""
        result = self.results.get(probe)
        return result["raised"] if isinstance(result, dict) and "raised" in result else None
