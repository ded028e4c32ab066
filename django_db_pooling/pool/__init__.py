"""The pool: no Django, no driver, no gevent in here."""

from django_db_pooling.pool.pool import CheckoutTimeout, Pool, ServerAway

__all__ = ["CheckoutTimeout", "Pool", "ServerAway"]
