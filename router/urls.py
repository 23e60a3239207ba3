"""Every address of the product. A view without a mark of access is refused by the middleware."""

from django.urls import URLPattern, URLResolver

urlpatterns: list[URLPattern | URLResolver] = []
