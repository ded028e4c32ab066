"""A tiny Django site that tests/e2e runs under real servers; its settings come from the environment."""

# The text of an error that a view raises.
ON_PURPOSE = "on purpose"
