"""How much a pool costs and what it is worth, beside the others: see docs/benchmarks.rst."""
