"""The page that shows what the pools of all processes do::

path("pools/", include("django_db_pooling.dashboard.urls"))
"""
