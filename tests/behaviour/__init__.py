"""What a user of the patch can rely on, tested inside of one process with a real database.

Which driver and database, and whether gevent is active, is said by the environment, since a process
can have only one of each. pytest runs each test once for each combination, in processes of their own
(``tests.apart``): ``tests/behaviour/test_fork.py::test_x[pymysql-gevent]``. To run one combination by hand::

    POOLING_DRIVER=pymysql POOLING_DATABASE_URL=mysql://... POOLING_GEVENT=1 python -m tests.behaviour

POOLING_SERVER=mysql says that it is MySQL and not MariaDB, which have the same drivers.
"""
