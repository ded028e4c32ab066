"""The pool: no Django, no driver, no gevent in here."""

from django_db_pooling.pool.pool import Pool
from django_db_pooling.pool.waiter import CheckoutTimeout, ServerAway

__all__ = ["CheckoutTimeout", "Pool", "ServerAway"]
