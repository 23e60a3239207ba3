"""Who may call: unknown callers, wrong titles and services that are not allowed."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.product import HOST, Product, wait_until
from tests.proof.delivered import folder_destination, to_every
from tests.proof.objects import CT, EXPLICIT_LITTLE, study_of
from tests.senders import (
    IMPLICIT_LITTLE,
    VERIFICATION,
    AssociationRejected,
    RawAssociation,
    send_raw,
)

FIND = "1.2.840.10008.5.1.4.1.2.2.1"
ECHO = (VERIFICATION, [IMPLICIT_LITTLE])
STORE = (CT, [EXPLICIT_LITTLE])
pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def listed(product: Product, tmp_path: Path) -> Iterator[Product]:
    """A product that knows two callers and nobody else."""
    plain = to_every(folder_destination("disk", tmp_path / "out"))
    sources = [
        {"name": "ct", "ae_title": "CT*", "hosts": ["127.0.0.0/8"]},
        {"name": "probe", "ae_title": "PROBE", "services": ["echo"]},
        {"name": "elsewhere", "ae_title": "FAR", "hosts": ["10.1.0.0/16"]},
    ]
    product.apply({**plain, "sources": sources})
    wait_until(lambda: answer(product, "STRANGER"), seconds=4, what="the sources are in force")
    yield product
    product.apply(plain)
    wait_until(lambda: not answer(product, "STRANGER"), seconds=4, what="everybody may call again")


def answer(product: Product, calling_ae: str, **others: Any) -> tuple[int, ...]:
    """The A-ASSOCIATE-RJ that a caller gets, or nothing."""
    try:
        with RawAssociation(
            HOST, product.port, contexts=[ECHO, STORE], calling_ae=calling_ae, **others
        ):
            return ()
    except AssociationRejected as rejected:
        return rejected.answer


def audited(product: Product) -> list[str]:
    """Event, actor and address of what was audited."""
    lines = (
        "from router.models import AuditEvent",
        "for one in AuditEvent.objects.all():",
        "    print(one.event, one.actor, one.remote_address)",
    )
    return product.command("shell", "--no-imports", "-c", "\n".join(lines)).splitlines()


def test_an_unknown_caller_is_rejected_and_audited(listed: Product) -> None:
    assert answer(listed, "NOBODY-KNOWN") == (1, 1, 3)
    assert answer(listed, "FAR") == (1, 1, 3)
    assert answer(listed, "CT9") == ()
    wait_until(
        lambda: "association.rejected NOBODY-KNOWN 127.0.0.1" in audited(listed),
        seconds=20,
        what="an audit event of the rejection",
        every=1,
    )


def test_a_wrong_called_title_is_rejected(listed: Product) -> None:
    assert answer(listed, "CT1", called_ae="SOMEBODY") == (1, 1, 7)


def test_a_service_that_is_not_allowed_has_its_contexts_refused(listed: Product) -> None:
    with RawAssociation(HOST, listed.port, contexts=[ECHO, STORE], calling_ae="PROBE") as assoc:
        assert assoc.results == {1: 0, 3: 1}
        assert assoc.echo() == 0
    with RawAssociation(
        HOST, listed.port, contexts=[ECHO, STORE, (FIND, [IMPLICIT_LITTLE])], calling_ae="CT1"
    ) as assoc:
        assert assoc.results[3] == 0
        assert assoc.results[5] != 0


def test_the_source_is_named_in_the_report(listed: Product) -> None:
    (one,) = study_of(1)
    assert send_raw(HOST, listed.port, [one], calling_ae="CT1")[0].status == 0
    listed.wait_idle()
    (report,) = listed.report(one.sop_instance_uid)
    assert [part["source"] for part in report["received"]] == ["ct"]


def test_dcmtk_is_answered(product: Product) -> None:
    command = ["/usr/bin/echoscu", "-aec", "DICOMROUTER", HOST, str(product.port)]
    assert subprocess.run(command, check=False, timeout=20).returncode == 0
