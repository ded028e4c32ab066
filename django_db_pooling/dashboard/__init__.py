"""The page that shows what the pools of all processes do: in the admin, and wherever a project has it::

path("pools/", include("django_db_pooling.dashboard.urls"))
"""
