"""Packages that do something with Django's connections: do they work as they do without the pool?

``python -m tests.neighbours`` is the program, ``make neighbours`` installs what it needs first. Each package
has a row in ``neighbours.py`` and a file in ``probes/``, which uses it as its documentation says, through
requests in several threads or greenlets. ``run.py`` starts a process for each run (plain, and patched in each
scope), ``child.py`` is that process, ``site.py`` what probes use there, ``compare.py`` judges the results.
"""
