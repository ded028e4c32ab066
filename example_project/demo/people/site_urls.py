from bank_site.urls import urlpatterns as bank_urls
from django.urls import include, path

urlpatterns = [*bank_urls, path("people/", include("people.urls"))]
