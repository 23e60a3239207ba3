"""The nightly reckoning: when it is due, what it keeps, and who is told."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.test import Client

from router.models import AuditEvent, LedgerCheck
from router.services import clock, metrics, reckoning
from tests import factories

pytestmark = pytest.mark.django_db
ClientFor = Callable[..., Client]


def test_is_due_once_a_night() -> None:
    assert not reckoning.is_check_due()
    factories.receipt(received_at=clock.now() - timedelta(hours=2))
    assert reckoning.is_check_due()
    reckoning.reckon_and_keep()
    assert not reckoning.is_check_due()
    with clock.shifted(timedelta(hours=27)):
        assert reckoning.is_check_due()


def test_a_gap_reaches_dashboard_metrics_and_audit(client_for: ClientFor) -> None:
    factories.instance()  # no file of it is on storage
    check = reckoning.reckon_and_keep()
    assert check.gaps_count == LedgerCheck.objects.get().gaps_count > 0
    assert any("has no file" in gap for gap in check.gaps)
    assert AuditEvent.objects.filter(event="ledger.gaps").exists()
    assert b"router_ledger_gaps" in metrics.render()
    client = client_for("operator")
    assert b"gaps in the ledger" in client.get("/").content
    assert b"has no file" in client.get("/system/").content
