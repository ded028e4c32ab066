"""The Django site that all variants run, each in an environment of its own; knows no pool by name."""
