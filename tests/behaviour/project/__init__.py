"""A small Django project whose own tests run under Django's runner, with the patch on."""
