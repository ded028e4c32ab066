"""The migrations of ``hstore.py``."""
