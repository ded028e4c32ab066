"""pytest for this folder, with gevent's patch in place before anything else is imported."""

import os

if os.environ.get("POOLING_GEVENT"):
    from gevent import monkey

    monkey.patch_all()

from tests.apart import main

main("ldap_backend")
