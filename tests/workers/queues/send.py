"""Puts tokens into a library's queue: ``python -m tests.workers.queues.send MODULE TOKEN...``"""

from __future__ import annotations

import importlib
import sys

from django import setup

if __name__ == "__main__":
    setup()
    module = importlib.import_module(f"tests.workers.queues.{sys.argv[1]}")
    for token in sys.argv[2:]:
        module.send(token)
