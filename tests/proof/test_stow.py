"""STOW-RS and webhooks from end to end: Orthanc's DICOMweb, and servers that fail on purpose."""

import base64
import random
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from standardwebhooks.webhooks import Webhook

from tests.origins import Origin, Reply, Request, Script, Server
from tests.orthanc import DICOMWEB, Orthanc
from tests.product import HOST, Product, wait_until
from tests.proof.delivered import to_every
from tests.proof.objects import hashes, study_of
from tests.proof.test_kill import kill_cluster
from tests.senders import read_raw, send_raw
from tests.test_journey import DAMAGED, by_uid, hashed, real_set, study_uid, under_a_new_uid

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
IN_UNKNOWN_VRS = {"explicit_VR-UN.dcm"}
pytestmark = [pytest.mark.database, pytest.mark.timeout(240)]


@pytest.fixture
def orthanc(product: Product, tmp_path: Path) -> Iterator[Orthanc]:
    folder = tmp_path / "orthanc"
    settings = {"DicomWeb": {"Enable": True, "Root": "/dicom-web/"}}
    with Orthanc(folder, router_port=product.port, plugins=[DICOMWEB], **settings) as running:
        yield running


def stow(url: str, **more: object) -> dict[str, object]:
    return {"name": "web", "kind": "stow", "url": url, "retry": ["1s"], **more}


def test_the_real_set_reaches_orthanc_by_dicomweb_byte_for_byte(
    product: Product, orthanc: Orthanc
) -> None:
    """Orthanc refuses what names no study, or names it in unknown VRs: that waits for a person."""
    url = f"http://{HOST}:{orthanc.http_port}/dicom-web"
    product.apply(to_every(stow(url, name="orthanc-web", batch=5)))
    found = [read_raw(path) for path in real_set() if path.name not in DAMAGED]
    first, _others = by_uid([one for one in found if one.sop_instance_uid])
    objects = [under_a_new_uid(one) for one in first]
    fit = [one for one in objects if one.path and is_named(one.path)]
    assert {one.status for one in send_raw(HOST, product.port, objects)} == {0}
    wait_until(
        lambda: Counter(orthanc.hashes().values()) == hashed(fit),
        seconds=90,
        what="all that Orthanc takes",
        every=0.5,
    )
    refused = [one.sop_instance_uid for one in objects if one not in fit]

    def are_parked() -> bool:
        states = (states_of(product, uid, at="orthanc-web") for uid in refused)
        return all(one == {"Needs attention"} for one in states)

    wait_until(are_parked, seconds=60, what="the others parked")
    assert Counter(orthanc.hashes().values()) == hashed(fit)
    assert len(fit) >= 5
    product.verify("--deep")


def states_of(product: Product, uid: str, *, at: str) -> set[str]:
    """The states at a destination of the study that an object is in; other proofs use it too."""
    return {
        state
        for one in product.report(uid)
        for sent in one["sent"]
        if sent["destination"] == at
        for state in sent["states"]
    }


def is_named(path: Path) -> bool:
    """Tell whether an object says in UI elements of which study and series it is."""
    return study_uid(path) != "" and path.name not in IN_UNKNOWN_VRS


def test_orthanc_says_whether_it_can_be_sent_to(product: Product, orthanc: Orthanc) -> None:
    from router.destinations import KINDS

    for path, ok in (("dicom-web", True), ("elsewhere", False)):
        form = KINDS["stow"].form({"url": f"http://{HOST}:{orthanc.http_port}/{path}"})
        assert form.is_valid(), form.errors
        assert KINDS["stow"].sender(form.cleaned_data).verify().ok == ok


def test_cut_refused_and_killed_in_the_middle_it_loses_nothing(
    product: Product, rounds: int
) -> None:
    for _ in range(rounds):
        one_round(product)


def one_round(product: Product) -> None:
    objects = study_of(120)
    bad = {at: Reply(status) for at, status in ((2, 503), (5, 500), (7, 429))}
    script = Script(statuses=bad, cut_request=3, reasons={25: 0xA700, 31: 0x0110}, delay=0.05)
    with Origin(script) as origin:
        product.apply(to_every(stow(origin.base, batch=10, associations=1)))
        assert {one.status for one in send_raw(HOST, product.port, objects)} == {0}
        sent = hashes(objects)
        some = random.randint(20, 60)
        wait_until(lambda: len(origin.received) > some, seconds=60, what="a few objects")
        kill_cluster(product, None)  # type: ignore[arg-type]  # it looks at no sink
        wait_until(lambda: origin.hashes() == sent, seconds=120, what="all of the study")
        product.wait_idle(90)
    product.verify("--deep")


class Receiver(Server):
    """Checks each signature with a library of its own; the first event gets a 503."""

    def __init__(self) -> None:
        super().__init__(self._take)
        self.events: list[dict[str, object]] = []
        self._lock = threading.Lock()

    def _take(self, request: Request) -> Reply:
        headers = {name.lower(): value for name, value in request.headers.items()}
        event = Webhook(SECRET).verify(request.body, headers)
        with self._lock:
            self.events.append({**event, "header": headers["webhook-id"]})
        return Reply(503 if len(self.told()) == 1 and event["type"] != "ping" else 204)

    def told(self) -> list[dict[str, object]]:
        """What came but pings."""
        return [one for one in self.events if one["type"] != "ping"]


def test_a_study_is_told_of_when_it_is_complete(product: Product, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    objects = study_of(150)
    with Receiver() as receiver:
        hook = {"name": "ris", "kind": "webhook", "url": f"{receiver.url}/hook"}
        config = to_every({**hook, "secret_file": str(secret), "retry": ["1s"]})
        config["rules"][0] |= {"on": "study", "quiet": "4s"}
        product.apply(config)
        assert {one.status for one in send_raw(HOST, product.port, objects)} == {0}
        # Nothing is due until the study was quiet for long enough.
        wait_until(
            lambda: len(receiver.told()) == 2, seconds=90, what="an event and its repetition"
        )
        product.wait_idle(90)
    assert receiver.events[0]["type"] == "ping"
    first, again = receiver.told()
    assert first == again
    assert (first["type"], first["instances"]) == ("study.sent", 150)
    assert first["id"] == first["header"]
    product.verify("--deep")
