"""What no rule took is judged again on demand."""

from collections.abc import Callable

import pytest
from django.test import Client

from router.models import AuditEvent, RoutingMark
from tests import factories

ClientFor = Callable[..., Client]


@pytest.mark.django_db
def test_held_objects_are_routed_again_and_others_are_left_alone(client_for: ClientFor) -> None:
    study = factories.study()
    series = factories.series(study)
    held, routed = factories.instance(series), factories.instance(series)
    factories.mark(held, decision=factories.decision(study, outcome="held"))
    factories.mark(routed, decision=factories.decision(study, outcome="routed"))
    client = client_for("operator")
    assert b"Route 1 object again" in client.get(f"/studies/{study.pk}/").content
    answer = client.post(f"/studies/{study.pk}/route/")
    assert answer.status_code == 302
    open_marks = RoutingMark.objects.filter(decision=None)
    assert [mark.instance_id for mark in open_marks] == [held.pk]
    assert AuditEvent.objects.get(event="study.routed_again").details == {"count": 1}
    assert b"Route 1" not in client.get(f"/studies/{study.pk}/").content
