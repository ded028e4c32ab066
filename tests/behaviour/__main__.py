"""pytest for this folder, with gevent's patch in place before anything else is imported."""

import os

if os.environ.get("POOLING_GEVENT"):
    from tests.behaviour.green import patch

    patch()

from tests.apart import main

main("behaviour")
