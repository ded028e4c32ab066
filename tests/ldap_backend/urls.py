"""Views for the test client."""

from __future__ import annotations

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.urls import path

from tests.ldap_backend.models import User


def mail(request: HttpRequest, uid: str) -> HttpResponse:
    return HttpResponse(User.objects.get(uid=uid).mail)


urlpatterns = [path("admin/", admin.site.urls), path("mail/<uid>", mail)]
