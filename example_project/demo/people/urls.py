from django.urls import path

from people import views

urlpatterns = [
    path("", views.people, name="people"),
    path("<str:uid>/", views.person, name="person"),
]
