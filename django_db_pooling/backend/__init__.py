"""The project's DatabaseWrapper with pooled connections."""
