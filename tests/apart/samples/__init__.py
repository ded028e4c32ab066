"""Tests with all kinds of outcomes, for ``tests/test_apart.py``; nobody else collects them."""
