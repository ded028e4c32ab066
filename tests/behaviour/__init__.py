"""What a user of the patch can rely on, tested inside of one process with a real database.

Which driver and database, and whether gevent is active, is said by the environment, since a process
can have only one of each. ``tests/test_behaviour.py`` runs this folder once for each combination;
to run one of them by hand::

    POOLING_DRIVER=pymysql POOLING_DATABASE_URL=mysql://... POOLING_GEVENT=1 python -m tests.behaviour
"""
