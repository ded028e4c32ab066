"""LDAP: connections of python-ldap, how they are made, and what django-ldapdb's wrapper lacks."""
