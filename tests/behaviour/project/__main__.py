"""manage.py test, with gevent's patch in place before anything else is imported."""

import os
import sys

if os.environ.get("POOLING_GEVENT"):
    from tests.behaviour.green import patch

    patch()

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.behaviour.project.settings"

if __name__ == "__main__":
    from django.core.management import execute_from_command_line

    execute_from_command_line(["manage.py", *sys.argv[1:]])
