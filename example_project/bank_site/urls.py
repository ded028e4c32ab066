from django.apps import apps
from django.contrib import admin
from django.contrib.staticfiles.views import serve
from django.urls import include, path

urlpatterns = [
    path("", include("bank.urls")),
    path("admin/", admin.site.urls),
    # "insecure" lets Python serve them with DEBUG off too: enough for an example without a web server.
    path("static/<path:path>", serve, {"insecure": True}),
]
if apps.is_installed("django_db_pooling"):
    urlpatterns.append(path("pools/", include("django_db_pooling.dashboard.urls")))
