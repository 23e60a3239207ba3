"""What a program is told when it does not get what it asked for: problem details (RFC 9457).

Refuses to repeat what was sent: it may name a patient.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus

from django.http import HttpResponse, JsonResponse

PROBLEM = "application/problem+json"
CHALLENGE = 'Bearer realm="router"'


def problem(
    status: int, detail: str, *, errors: Sequence[Mapping[str, object]] = ()
) -> HttpResponse:
    """Answer a program: never a redirect, never Basic (a browser would ask).

    Args:
        status: of HTTP.
        detail: a sentence: what is wrong, and what to do.
        errors: what was wrong where, as ``pointer`` and ``detail``.
    """
    told: dict[str, object] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    if errors:
        told["errors"] = [dict(error) for error in errors]
    answer = JsonResponse(told, status=status)
    answer["Content-Type"] = PROBLEM
    answer["Cache-Control"] = "no-store"
    if status == HTTPStatus.UNAUTHORIZED:
        answer["WWW-Authenticate"] = CHALLENGE
    return answer
