"""What a user of django-ldapdb can rely on, tested inside of one process with a real LDAP server.

pytest runs it in threads and under gevent, in processes of their own (``tests.apart``); to run it by hand::

    POOLING_GEVENT=1 python -m tests.ldap_backend
"""
