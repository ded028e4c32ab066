"""To be included by the project's own URLs; the admin includes them by itself."""

from __future__ import annotations

from django.urls import path

from django_db_pooling.dashboard import login, readiness, views

app_name = "django_db_pooling"

urlpatterns = [
    path("", views.index, name="index"),
    path("live/", views.live, name="live"),
    path("login/", login.login, name="login"),
    path("ready/", readiness.ready, name="ready"),
    path("overview.json", views.data, name="data"),
    path("<path:alias>/<str:action>/", views.act, name="act"),
]
