"""The same site under an ASGI server (`uvicorn bank_site.asgi:application`): pooled, too, by the settings.

Its views are no coroutines, so Django runs them in threads there. Their connections come from the same pool.
"""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "bank_site.settings")

application = get_asgi_application()
