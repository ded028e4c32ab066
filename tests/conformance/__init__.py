"""Django's own test suite, without and with the patch: every test must end the same way.

``python -m tests.conformance`` is the program, ``make conformance`` installs what it needs first.
"""
