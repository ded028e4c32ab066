"""A module for each library: what its worker imports, and ``send``, which puts a token into its queue."""
