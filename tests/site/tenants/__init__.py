"""The test site with django-tenants: a schema of PostgreSQL's for each tenant."""
