"""What one run of Django's suite is told, and what it tells: JSON on both ways."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

VARIABLE = "DJANGO_DB_POOLING_CONFORMANCE"

# Of runs with the patch.
SCOPES = ("transaction", "request")


@dataclass(frozen=True)
class Spec:
    """Handed to the process of a run in an environment variable."""

    databases: dict[str, dict[str, Any]]
    # The module that Django is to find as the databases' driver.
    driver: str
    # The one that applies in and outside of requests; None: without the patch.
    scope: str | None
    transactions: bool
    # A directory for report.json, and for what the processes of --parallel write.
    output: str

    @classmethod
    def of_this_process(cls) -> Spec:
        return cls(**json.loads(os.environ[VARIABLE]))

    def environment(self) -> dict[str, str]:
        return {VARIABLE: json.dumps(asdict(self))}


@dataclass(frozen=True)
class Report:
    """Written by a run that came to its end."""

    # As in the spec.
    scope: str | None
    transactions: bool
    # By full name of the test: how it ended.
    verdicts: dict[str, str]
    # By full name: the traceback of a failure, the reason of a skip.
    details: dict[str, str]
    # By alias: what pooling.stats() counted, in all processes together. Empty without the patch.
    stats: dict[str, dict[str, int]]

    @staticmethod
    def path(output: str) -> Path:
        return Path(output, "report.json")

    @classmethod
    def read(cls, path: Path) -> Report:
        return cls(**json.loads(path.read_text()))

    def write(self, path: Path) -> None:
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(asdict(self), indent=1))
        unfinished.rename(path)
