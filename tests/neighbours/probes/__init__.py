"""One file for each neighbour: an app with models, the root of the URLs, and the probes.

Each function ``probe_*`` returns what is to be the same with the pool and without. Imported only in a process
of ``child.py``, which has the neighbour's package installed.
"""
