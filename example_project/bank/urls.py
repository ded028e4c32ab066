from importlib.util import find_spec

from django.urls import path

from bank import api, pool_views, views

urlpatterns = [
    path("", views.front, name="front"),
    path("accounts/", views.accounts, name="accounts"),
    path("accounts/<int:pk>/", views.account, name="account"),
    path("accounts/<int:pk>/balance.json", api.balance, name="balance"),
    path("transfers/", views.transfers, name="transfers"),
    path("transfers/new/", views.new_transfer, name="new-transfer"),
    path("quote/", views.quote, name="quote"),
    path("mixed/<int:pk>.json", api.mixed, name="mixed"),
    path("mixed-released/<int:pk>.json", api.mixed_released, name="mixed-released"),
    path("mixed-transaction/<int:pk>.json", api.mixed_in_transaction_scope, name="mixed-transaction"),
    path("healthz", api.healthz, name="healthz"),
    path("pool.json", pool_views.pool_json, name="pool-json"),
]
if find_spec("prometheus_client") is not None:
    urlpatterns.append(path("metrics", pool_views.metrics, name="metrics"))
