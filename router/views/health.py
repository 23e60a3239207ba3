"""Addresses for machines: does the process live, is the installation ready, and its figures."""

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from router.models import Permission, Scope
from router.services import health, metrics
from router.services.access import public, requires


@public
@never_cache
@require_safe
def healthz(request: HttpRequest) -> HttpResponse:
    """Answer ``ok`` as long as the process lives."""
    return HttpResponse("ok", content_type="text/plain; charset=utf-8")


@public
@never_cache
@require_safe
def readyz(request: HttpRequest) -> HttpResponse:
    """Answer 200 when every part is ready, else 503; without detail."""
    if health.failing():
        return JsonResponse({"status": "not ready"}, status=503)
    return JsonResponse({"status": "ready"})


@requires(Permission.SEE_HEALTH, scope=Scope.METRICS_READ)
@never_cache
@require_safe
def figures(request: HttpRequest) -> HttpResponse:
    """Answer with all figures in the text format of Prometheus."""
    return HttpResponse(metrics.render(), content_type=metrics.CONTENT_TYPE)
