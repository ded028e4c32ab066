"""The whole integration: two calls before the application is made. POOLING=off leaves them out."""

import os

from django.core.wsgi import get_wsgi_application

from django_db_pooling import pooling

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "bank_site.settings")

POOL_SIZE = int(os.environ.get("POOL_SIZE", "10"))
POOL_MAX_OUTSTANDING = int(os.environ.get("POOL_MAX_OUTSTANDING", "20"))

if os.environ.get("POOLING") != "off":
    pooling.set_pool_size(POOL_SIZE, max_outstanding=POOL_MAX_OUTSTANDING)
    pooling.patch()

application = get_wsgi_application()
