"""The kind `s3` against OpenStack Swift, which checks signatures, digests and parts; the wire is
cut, stopped and closed."""

import base64
import dataclasses
import hashlib
import io
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError
from pytest_django import Settings

from router import webclient
from router.destinations import KINDS, s3
from router.destinations.base import Confirming, Context, Outgoing, Result
from router.destinations.outcomes import Outcome
from router.dicom import part10
from tests.faults.proxy import Fault, FaultProxy
from tests.router.destinations.objects import EXPLICIT, IMPLICIT, made, real_files, stored
from tests.swift.server import ACCESS_KEY, SECRET_KEY, Swift

BUCKET = "images"
BY_STUDY = "{StudyInstanceUID}.dcm"
BY_UID = "{SOPInstanceUID}.dcm"
PARTS = bytes(range(256)) * (12 << 12)  # 12 MiB: three parts of 5


@pytest.fixture(scope="module")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swift]:
    with Swift(tmp_path_factory.mktemp("swift")) as started:
        started.client().create_bucket(Bucket=BUCKET)
        yield started


@pytest.fixture
def store(swift: Swift) -> Any:  # Any: boto3 makes the methods of a client when the program runs
    client = swift.client()
    _empty(client)
    return client


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_KEY", ACCESS_KEY)
    monkeypatch.setenv("S3_SECRET", SECRET_KEY)


@pytest.fixture
def kept_in(tmp_path: Path) -> Path:
    path = tmp_path / "stored"
    path.mkdir()
    return path


@pytest.fixture
def proxy(swift: Swift) -> Iterator[FaultProxy]:
    with FaultProxy(swift.port) as started:
        yield started


def sender(endpoint: str, **settings: object) -> s3.S3Sender:
    given = {"endpoint": endpoint, "bucket": BUCKET, "layout": BY_UID, "part_size": 5}
    secrets = {"access_key_env": "S3_KEY", "secret_key_env": "S3_SECRET"}
    form = KINDS["s3"].form(given | secrets | settings)
    assert form.is_valid(), form.errors
    made_of = KINDS["s3"].sender(form.cleaned_data)
    assert isinstance(made_of, s3.S3Sender)
    return made_of


def send(endpoint: str, items: list[Outgoing], **settings: object) -> list[Result]:
    results = list(sender(endpoint, **settings).send(items, Context()))
    assert [result.item_id for result in results] == [item.item_id for item in items]
    return results


def through(proxy: FaultProxy) -> str:
    return f"http://{proxy.host}:{proxy.port}"


def keys(store: Any) -> list[str]:
    listed = store.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    return sorted(one["Key"] for page in listed for one in page.get("Contents", ()))


def uploads(store: Any) -> list[str]:
    return [one["Key"] for one in store.list_multipart_uploads(Bucket=BUCKET).get("Uploads", ())]


def content(store: Any, key: str) -> tuple[str, str]:
    """Return transfer syntax and hash of the data set of an object with a preamble of zeros."""
    written = store.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    assert written[:132] == bytes(128) + b"DICM"
    meta = part10.read_meta(io.BytesIO(written))
    return meta.transfer_syntax, hashlib.sha256(written[meta.offset :]).hexdigest()


def states(endpoint: str, items: list[Outgoing], **settings: object) -> list[str]:
    asked = sender(endpoint, **settings)
    assert isinstance(asked, Confirming)
    found = list(asked.confirm(items, Context()))
    assert [one.item_id for one in found] == [item.item_id for item in items]
    return [one.state for one in found]


def _empty(client: Any) -> None:
    for upload in client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", ()):
        found = {"Key": upload["Key"], "UploadId": upload["UploadId"]}
        client.abort_multipart_upload(Bucket=BUCKET, **found)
    for key in keys(client):
        client.delete_object(Bucket=BUCKET, Key=key)


def identity(item: Outgoing) -> tuple[str, str]:
    return item.transfer_syntax, item.sha256


class TestPutting:
    def test_every_real_file_is_put_and_read_back_unchanged(
        self, swift: Swift, store: Any, kept_in: Path
    ) -> None:
        items = [stored(p, kept_in, item_id=n) for n, p in enumerate(real_files(), 1)]
        results = send(swift.endpoint, items)
        assert {result.outcome for result in results} == {Outcome.DELIVERED}
        assert [result.egress_sha256 for result in results] == [item.sha256 for item in items]
        assert {content(store, key) for key in keys(store)} == set(map(identity, items))
        assert set(states(swift.endpoint, items)) == {"present"}
        assert uploads(store) == []

    def test_keys_follow_prefix_and_layout(self, swift: Swift, store: Any, kept_in: Path) -> None:
        layout = "{ReceivedDate}/{Source}/{StudyDate}/{Modality}.dcm"
        send(swift.endpoint, [made(kept_in)], prefix="in/ct", layout=layout)
        assert keys(store) == ["in/ct/20261120/ct-1/20260102/CT.dcm"]

    @pytest.mark.parametrize("checksum", ["sha256", "md5"])
    def test_a_large_object_goes_in_parts(
        self, swift: Swift, store: Any, kept_in: Path, checksum: str
    ) -> None:
        item = made(kept_in, PixelData=PARTS)
        moved: list[int] = []
        sending = sender(swift.endpoint, checksum=checksum).send(
            [item], Context(progress=moved.append)
        )
        [result] = sending
        assert result.outcome == Outcome.DELIVERED, result.detail
        [key] = keys(store)
        assert content(store, key) == identity(item)
        assert store.head_object(Bucket=BUCKET, Key=key)["ETag"].endswith('-3"')
        assert uploads(store) == []
        assert sum(moved) == item.offset + item.size
        assert max(moved) <= 1 << 20
        assert states(swift.endpoint, [item], checksum=checksum) == ["present"]

    def test_objects_are_marked_as_dicom(self, swift: Swift, store: Any, kept_in: Path) -> None:
        item = made(kept_in)
        send(swift.endpoint, [item])
        said = store.head_object(Bucket=BUCKET, Key=f"{item.sop_instance_uid}.dcm")
        assert said["ContentType"] == "application/dicom"
        assert said["Metadata"] == {"sha256": item.sha256, "transfer-syntax": EXPLICIT}


class TestCollisions:
    def test_the_same_bytes_again_are_put_once(
        self, swift: Swift, store: Any, kept_in: Path
    ) -> None:
        item = made(kept_in)
        [first], [second] = send(swift.endpoint, [item]), send(swift.endpoint, [item])
        assert (first.outcome, second.outcome) == (Outcome.DELIVERED, Outcome.DELIVERED)
        assert (first.bytes_sent, second.bytes_sent) == (item.size, 0)
        assert len(keys(store)) == 1

    @pytest.mark.parametrize("guard", ["if_none_match", "head"])
    def test_other_bytes_get_a_number_and_a_warning(
        self, swift: Swift, store: Any, kept_in: Path, guard: str
    ) -> None:
        items = [made(kept_in, item_id=n) for n in (1, 2, 3)]
        for _ in range(2):
            results = send(swift.endpoint, items, layout=BY_STUDY, overwrite_guard=guard)
            assert [r.outcome for r in results] == ["delivered", "warning", "warning"]
            assert keys(store) == ["1.2.3.1-2.dcm", "1.2.3.1-3.dcm", "1.2.3.1.dcm"]
        assert results[1].warnings
        assert states(swift.endpoint, items, layout=BY_STUDY) == ["present"] * 3

    def test_another_transfer_syntax_is_other_bytes(
        self, swift: Swift, store: Any, kept_in: Path
    ) -> None:
        item = made(kept_in, syntax=EXPLICIT)
        other = dataclasses.replace(item, transfer_syntax=IMPLICIT)
        [first, second] = send(swift.endpoint, [item, other], layout="x.dcm")
        assert (first.outcome, second.outcome) == (Outcome.DELIVERED, Outcome.WARNING)

    def test_what_others_put_is_left_alone(self, swift: Swift, store: Any, kept_in: Path) -> None:
        store.put_object(Bucket=BUCKET, Key="x.dcm", Body=b"mine")
        [result] = send(swift.endpoint, [made(kept_in)], layout="x.dcm")
        assert result.outcome == Outcome.WARNING
        assert store.get_object(Bucket=BUCKET, Key="x.dcm")["Body"].read() == b"mine"
        assert keys(store) == ["x-2.dcm", "x.dcm"]

    def test_the_same_file_of_others_counts(self, swift: Swift, store: Any, kept_in: Path) -> None:
        item = made(kept_in)
        with item.open() as file:
            store.put_object(Bucket=BUCKET, Key="x.dcm", Body=file.read())
        [result] = send(swift.endpoint, [item], layout="x.dcm")
        assert (result.outcome, result.bytes_sent) == (Outcome.DELIVERED, 0)

    def test_many_for_one_key_at_once_are_all_there(
        self, swift: Swift, store: Any, kept_in: Path
    ) -> None:
        """Swift itself would let the later one of two replace the earlier, If-None-Match or not."""
        items = [made(kept_in, item_id=n) for n in range(1, 9)]
        with ThreadPoolExecutor(4) as pool:
            sent = pool.map(lambda item: send(swift.endpoint, [item], layout=BY_STUDY), items)
            outcomes = sorted(str(result.outcome) for results in sent for result in results)
        assert outcomes == ["delivered"] + ["warning"] * 7
        assert {content(store, key) for key in keys(store)} == set(map(identity, items))

    def test_the_store_checks_what_arrives(self, swift: Swift, store: Any) -> None:
        """What the headers are for; it shows that this store looks at them."""
        for wrong in (
            {"ChecksumSHA256": base64.b64encode(bytes(32)).decode()},
            {"ContentMD5": base64.b64encode(bytes(16)).decode()},
        ):
            with pytest.raises(store.exceptions.ClientError, match="Digest"):
                store.put_object(Bucket=BUCKET, Key="x", Body=b"x", **wrong)


class TestConfirming:
    def test_says_what_is_gone_and_what_is_other(
        self, swift: Swift, store: Any, kept_in: Path
    ) -> None:
        items = [made(kept_in, item_id=n) for n in (1, 2, 3)]
        send(swift.endpoint, items)
        gone, other = (f"{item.sop_instance_uid}.dcm" for item in items[1:])
        store.delete_object(Bucket=BUCKET, Key=gone)
        store.put_object(Bucket=BUCKET, Key=other, Body=b"something else")
        assert states(swift.endpoint, items) == ["present", "absent", "different"]

    def test_bytes_that_went_bad_are_found_although_the_mark_is_right(
        self, swift: Swift, store: Any, kept_in: Path
    ) -> None:
        item = made(kept_in)
        with item.open() as file:
            spoilt = file.read()[:-1] + b"\xff"
        mark = {"sha256": item.sha256, "transfer-syntax": item.transfer_syntax}
        key = f"{item.sop_instance_uid}.dcm"
        store.put_object(Bucket=BUCKET, Key=key, Body=spoilt, Metadata=mark)
        assert states(swift.endpoint, [item]) == ["different"]

    def test_reads_back_what_has_another_digest(
        self, swift: Swift, store: Any, kept_in: Path
    ) -> None:
        item = made(kept_in, PixelData=PARTS)
        send(swift.endpoint, [item], part_size=6)
        [found] = sender(swift.endpoint).confirm([item], Context())
        assert (found.state, "read back" in found.detail) == ("present", True)

    def test_needs_no_file_of_ours(self, swift: Swift, store: Any, kept_in: Path) -> None:
        item = made(kept_in)
        send(swift.endpoint, [item])

        def purged() -> io.BufferedReader:
            raise FileNotFoundError

        assert states(swift.endpoint, [dataclasses.replace(item, open=purged)]) == ["present"]

    def test_an_unreachable_store_says_nothing(self, kept_in: Path) -> None:
        assert states("http://127.0.0.1:9", [made(kept_in)]) == ["unknown"]


class TestTrouble:
    def test_a_wrong_secret_stops_the_lane(
        self, swift: Swift, store: Any, kept_in: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("S3_SECRET", "wrong")
        results = send(swift.endpoint, [made(kept_in, item_id=n) for n in (1, 2)])
        assert [(r.outcome, r.lane) for r in results] == [("configuration", "configuration")] * 2
        assert keys(store) == []

    def test_a_missing_secret_stops_the_lane(
        self, swift: Swift, kept_in: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("S3_SECRET")
        [result] = send(swift.endpoint, [made(kept_in)])
        assert (result.outcome, result.lane) == ("configuration", "configuration")
        assert "S3_SECRET" in result.detail

    def test_a_missing_bucket_stops_the_lane(self, swift: Swift, kept_in: Path) -> None:
        [result] = send(swift.endpoint, [made(kept_in)], bucket="nowhere")
        assert (result.outcome, result.lane) == ("configuration", "configuration")
        assert "no such bucket" in result.detail

    def test_nobody_listening_backs_the_lane_off(self, kept_in: Path) -> None:
        results = send("http://127.0.0.1:9", [made(kept_in, item_id=n) for n in (1, 2)])
        assert [(r.outcome, r.lane) for r in results] == [
            ("retry", "transport"),
            ("not_sent", "transport"),
        ]

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
    def test_an_address_that_is_not_allowed_stops_the_lane(
        self, swift: Swift, kept_in: Path, settings: Settings, host: str
    ) -> None:
        sending = sender(f"http://{host}:{swift.port}")
        settings.OUTBOUND_ALLOW = []
        [result] = sending.send([made(kept_in)], Context())
        assert (result.outcome, result.lane) == ("configuration", "configuration")
        assert "loopback" in result.detail
        assert [step.name for step in sending.verify().steps if not step.ok]

    @pytest.mark.parametrize("size", [256, 6 << 20])
    def test_what_does_not_match_its_hash_never_leaves(
        self, swift: Swift, store: Any, kept_in: Path, size: int
    ) -> None:
        whole = made(kept_in, PixelData=bytes(size))
        short = dataclasses.replace(whole, item_id=2, size=whole.size + 2)
        items = [dataclasses.replace(whole, sha256="0" * 64), short]
        assert [r.outcome for r in send(swift.endpoint, items)] == ["data_error", "data_error"]
        assert (keys(store), uploads(store)) == ([], [])

    @pytest.mark.parametrize("size", [3 << 20, 12 << 20])
    def test_a_stop_within_an_object_leaves_nothing(
        self, swift: Swift, store: Any, kept_in: Path, size: int
    ) -> None:
        moved: list[int] = []
        items = [made(kept_in, item_id=n, PixelData=bytes(size)) for n in (1, 2)]
        context = Context(progress=moved.append, abort=lambda: sum(moved) > size // 2)
        results = list(sender(swift.endpoint).send(items, context))
        assert [r.outcome for r in results] == ["not_sent", "not_sent"]
        assert (keys(store), uploads(store)) == ([], [])

    def test_what_progress_raises_comes_through(
        self, swift: Swift, store: Any, kept_in: Path
    ) -> None:
        class LeaseLost(Exception):
            pass

        def lost(count: int) -> None:
            if count:
                raise LeaseLost

        with pytest.raises(LeaseLost):
            list(sender(swift.endpoint).send([made(kept_in)], Context(progress=lost)))
        assert keys(store) == []


class TestCuts:
    """Wherever the wire is cut: delivered means that it is there, and the next try settles it."""

    @pytest.mark.parametrize("end", ["close", "reset"])
    @pytest.mark.parametrize("size", [256 << 10, 6 << 20])
    def test_cut_while_bytes_leave(
        self,
        swift: Swift,
        proxy: FaultProxy,
        store: Any,
        kept_in: Path,
        size: int,
        end: Any,  # Any: pytest does not know the literal
    ) -> None:
        item = made(kept_in, PixelData=bytes(size))
        for up_bytes in (0, 300, 2000, size // 2, size - 10):
            self._settles(swift, proxy, store, item, Fault("cut", up_bytes=up_bytes, end=end))

    @pytest.mark.parametrize("size", [256, 6 << 20])
    def test_cut_before_the_answer(
        self, swift: Swift, proxy: FaultProxy, store: Any, kept_in: Path, size: int
    ) -> None:
        item = made(kept_in, PixelData=bytes(size))
        found = {
            self._settles(swift, proxy, store, item, Fault("cut", down_bytes=down, end="close"))
            for down in range(100, 3600, 250)
        }
        assert "unknown" in found

    def test_a_store_that_stops_answering(
        self, swift: Swift, proxy: FaultProxy, store: Any, kept_in: Path
    ) -> None:
        item = made(kept_in)
        stuck = Fault("stuck", down_bytes=10, end="stall")
        times = {"connect_timeout": "1s", "response_timeout": "1s"}
        assert self._settles(swift, proxy, store, item, stuck, **times) == "retry"

    @pytest.mark.timeout(60)
    def test_a_store_that_takes_no_more_bytes_is_given_up(
        self, swift: Swift, proxy: FaultProxy, store: Any
    ) -> None:
        """On a connection that is used again too, long before an answer would be late."""
        client = webclient.boto_client(
            "s3",
            keys=webclient.Keys(ACCESS_KEY, SECRET_KEY),
            region="us-east-1",
            endpoint=through(proxy),
            timeout=webclient.Timeouts(connect=5, write=1, read=600),
            options={"s3": {"addressing_style": "path"}},
        )
        proxy.fault = Fault("stuck", up_bytes=1 << 20, end="stall")
        client.head_bucket(Bucket=BUCKET)
        with pytest.raises(BotoCoreError):
            client.put_object(Bucket=BUCKET, Key="x", Body=bytes(64 << 20))
        proxy.heal()
        assert (proxy.passed, keys(store)) == (1, [])

    def test_garbage_is_no_answer(
        self, swift: Swift, proxy: FaultProxy, store: Any, kept_in: Path
    ) -> None:
        garbage = Fault("garbage", down_bytes=0, end="garbage")
        found = self._settles(swift, proxy, store, made(kept_in), garbage, response_timeout="1s")
        assert found == "retry"

    @staticmethod
    def _settles(
        swift: Swift,
        proxy: FaultProxy,
        store: Any,
        item: Outgoing,
        fault: Fault,
        **settings: object,
    ) -> str:
        """Send through a fault and then without; return what became known the first time."""
        _empty(store)
        proxy.fault = fault
        [first] = send(through(proxy), [item], **settings)
        proxy.heal()
        assert first.outcome in ("retry", "unknown", "delivered"), first.detail
        if first.outcome == "delivered":
            assert [content(store, key) for key in keys(store)] == [identity(item)]
        else:
            assert first.lane == "transport" or first.status is not None
            [second] = send(swift.endpoint, [item])
            assert second.outcome == "delivered", second.detail
        assert [content(store, key) for key in keys(store)] == [identity(item)]
        assert uploads(store) == []
        return str(first.outcome)

    def test_killed_within_an_upload(self, swift: Swift, store: Any, kept_in: Path) -> None:
        item = made(kept_in, PixelData=PARTS)
        moved: list[int] = []

        def die(count: int) -> None:
            moved.append(count)
            if sum(moved) > 7 << 20:
                os.kill(os.getpid(), signal.SIGKILL)

        child = os.fork()
        if child == 0:
            list(sender(swift.endpoint).send([item], Context(progress=die)))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL
        assert (keys(store), len(uploads(store))) == ([], 1)

        [result] = send(swift.endpoint, [item])

        assert result.outcome == Outcome.DELIVERED
        assert [content(store, key) for key in keys(store)] == [identity(item)]
        assert uploads(store) == []


class TestVerify:
    NAMES = ("settings", "bucket", "put", "head", "get", "guard", "delete")

    @pytest.fixture
    def names(self, swift: Swift) -> Callable[..., list[tuple[str, bool]]]:
        def tried(**settings: object) -> list[tuple[str, bool]]:
            steps = sender(swift.endpoint, **settings).verify().steps
            return [(step.name, step.ok) for step in steps]

        return tried

    def test_puts_looks_reads_and_deletes(
        self, names: Callable[..., list[tuple[str, bool]]], store: Any
    ) -> None:
        assert names(prefix="in/") == [(name, True) for name in self.NAMES]
        assert keys(store) == []

    def test_names_the_step_that_failed(
        self,
        names: Callable[..., list[tuple[str, bool]]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        assert names(bucket="nowhere") == [("settings", True), ("bucket", False)]
        monkeypatch.setenv("S3_SECRET", "wrong")
        assert names() == [("settings", True), ("bucket", False)]
        monkeypatch.delenv("S3_SECRET")
        assert names() == [("settings", False)]
