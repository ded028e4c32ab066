"""A tiny Django site that tests/e2e runs under real servers; its settings come from the environment."""
