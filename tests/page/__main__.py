"""pytest for this folder."""

from tests.apart import main

main("page")
