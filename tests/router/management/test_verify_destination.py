"""``verify_destination``: steps, test object, rehearsal; exit 1 on a failure, 2 on misuse."""

import io

import pytest
from django.core.management import CommandError, call_command

from router.destinations import KINDS
from router.models import AuditEvent, Destination
from tests import factories
from tests.sinks import Script, Sink

pytestmark = pytest.mark.django_db
CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT, J2K = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.90"


def pacs(sink: Sink, name: str = "pacs", **settings: object) -> Destination:
    form = KINDS["dicom"].form(sink.settings | {"response_timeout": "2s"} | settings)
    assert form.is_valid(), form.errors
    return factories.destination(name, settings=form.cleaned_data)


def folder(path: str) -> dict[str, object]:
    form = KINDS["folder"].form({"path": path})
    assert form.is_valid()
    return form.cleaned_data


def chosen(row: Destination, sop_class_uid: str, syntax: str, *, rule: str = "all") -> None:
    instance = factories.instance(sop_class_uid=sop_class_uid, transfer_syntax_uid=syntax)
    job = factories.job(instance.study, destination=row, rule=rule)
    factories.item(job, instance=instance)


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command("verify_destination", *arguments, stdout=out)
    return out.getvalue()


def failed(*arguments: str) -> str:
    out = io.StringIO()
    with pytest.raises(SystemExit) as caught:
        call_command("verify_destination", *arguments, stdout=out)
    assert caught.value.code == 1
    return out.getvalue()


def test_prints_each_step_and_is_audited() -> None:
    with Sink(Script(sop_classes=[CT], transfer_syntaxes=[EXPLICIT])) as sink:
        pacs(sink)
        lines = run("pacs").splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "ok       connection",
        "ok       association",
        "ok       echo",
        "ok       contexts",
    ]
    [event] = AuditEvent.objects.filter(event="destination.verified")
    assert (event.target, event.details) == ("destination pacs", {"test_object": False})


def test_sends_a_test_object_when_told() -> None:
    with Sink() as sink:
        pacs(sink)
        assert "ok       test object: " in run("pacs", "--test-object")
        assert len(sink.objects) == 1


def test_exits_1_when_a_step_fails() -> None:
    with Sink(Script(reject=(1, 1, 7))) as sink:
        pacs(sink)
        assert "FAILED   association" in failed("pacs")
    assert [event.outcome for event in AuditEvent.objects.all()] == ["4"]


def test_rehearses_what_was_chosen_lately() -> None:
    """D11: what the peer refuses is listed, with how many studies came."""
    with Sink(Script(sop_classes=[CT], transfer_syntaxes=[EXPLICIT])) as sink:
        row = pacs(sink)
        chosen(row, CT, EXPLICIT)
        chosen(row, CT, J2K)
        chosen(row, CT, J2K, rule="other")
        text = failed("pacs", "--rehearse")
        only = failed("pacs", "--rehearse", "--rule", "other")
        assert sink.objects == []
    assert "What was chosen for pacs in the last 30 days:" in text
    assert (
        "ok       CT Image Storage, Explicit VR Little Endian (1 objects in 1 studies): "
        "It would leave as it is stored." in text
    )
    assert (
        "REFUSED  CT Image Storage, JPEG 2000 Image Compression (Lossless Only) "
        "(2 objects in 2 studies)" in text
    )
    assert "What rule other chose" in only
    assert "Explicit VR Little Endian (1" not in only


def test_rehearses_with_what_was_received_where_nothing_was_chosen() -> None:
    with Sink() as sink:
        pacs(sink)
        factories.instance(sop_class_uid=MR)
        text = run("pacs", "--rehearse", "--days", "7")
    assert "Nothing was chosen yet, so all that was received in the last 7 days:" in text
    assert "MR Image Storage" in text


@pytest.mark.parametrize(
    "arguments", [("nobody",), ("disk", "--test-object"), ("disk", "--days", "0")]
)
def test_exits_2_on_misuse(arguments: tuple[str, ...], tmp_path: object) -> None:
    factories.destination("disk", kind="folder", settings=folder(f"{tmp_path}/out"))
    with pytest.raises(CommandError) as caught:
        run(*arguments)
    assert caught.value.returncode == 2
