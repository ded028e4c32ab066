"""All of LDAP: connections of django-ldapdb's backend and of ``ConnectionManager``, without Django."""

from django_db_pooling.ldap.checkout import BackendError, MaxConnectionReachedError
from django_db_pooling.ldap.manager import ConnectionManager
from django_db_pooling.ldap.state import StateConnector

__all__ = ["BackendError", "ConnectionManager", "MaxConnectionReachedError", "StateConnector"]
