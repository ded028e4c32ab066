"""A project with the page of pools in its admin, on SQLite files: ``python -m tests.page`` runs its tests."""
