"""The test site's, and the tenants'."""

from __future__ import annotations

from django.urls import path

from tests.site import urls
from tests.site.tenants import views

urlpatterns = [*urls.urlpatterns, path("tenant/<str:how>", views.tenant)]
handler404 = urls.handler404
handler500 = urls.handler500
