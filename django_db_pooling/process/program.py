"""What this process is called, by others and by itself."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from django_db_pooling.log import safe_label


def name() -> str:
    """Of the program, as a label."""
    program = Path(sys.argv[0])
    # python -m gunicorn
    found = (program.parent if program.name == "__main__.py" else program).name
    return safe_label(os.fsencode(found).decode(errors="backslashreplace")) or "python"
