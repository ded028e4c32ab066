"""Django's own test suite, without the patch and with it, in each scope: every test must end the same way.

``python -m tests.conformance`` is the program, ``make conformance`` installs what it needs first.
"""
