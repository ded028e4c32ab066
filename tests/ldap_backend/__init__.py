"""What a user of django-ldapdb can rely on, tested inside of one process with a real LDAP server.

``tests/test_ldap_backend.py`` runs this folder in threads and under gevent; to run it by hand::

    POOLING_GEVENT=1 python -m tests.ldap_backend
"""
