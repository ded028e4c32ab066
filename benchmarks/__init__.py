"""What a pool costs and what it gains, compared with others: see docs/benchmarks.rst."""
