"""A process-wide pool for Django's database connections; see ``django_db_pooling.pooling``."""

__version__ = "1.0.0"
