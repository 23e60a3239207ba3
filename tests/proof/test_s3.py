"""S3 from end to end, into OpenStack Swift: the real set, and a wire and workers that fail."""

import hashlib
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from router.dicom import part10
from tests.faults.proxy import Fault, FaultProxy
from tests.product import HOST, Config, Product, wait_until
from tests.proof.delivered import LAYOUT, to_every
from tests.proof.objects import dataset, raw, study_of
from tests.proof.test_kill import kill_cluster
from tests.senders import RawObject, read_raw, send_raw
from tests.swift.server import ACCESS_KEY, SECRET_KEY, Swift
from tests.test_journey import DAMAGED, by_uid, hashed, real_set, under_a_new_uid

pytestmark = [pytest.mark.database, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swift]:
    with Swift(tmp_path_factory.mktemp("swift")) as running:
        yield running


class Bucket:
    """A bucket of its own for each proof, and what lies in it."""

    def __init__(self, swift: Swift, name: str, folder: Path) -> None:
        self.name, self.client = name, swift.client()
        self.client.create_bucket(Bucket=name)
        self._files = {"access_key_file": ACCESS_KEY, "secret_key_file": SECRET_KEY}
        self._folder = folder
        for key, text in self._files.items():
            (folder / key).write_text(text)

    def destination(self, endpoint: str) -> Config:
        """The configuration of it as a destination."""
        keys = {key: str(self._folder / key) for key in self._files}
        more = {"layout": LAYOUT, "part_size": 5, "retry": ["1s"], "connect_timeout": "2s"}
        named = {"name": "cloud", "kind": "s3", "endpoint": endpoint, "bucket": self.name}
        return {**named, **keys, **more}

    def keys(self) -> list[str]:
        """The keys of the objects."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        return [one["Key"] for page in pages for one in page.get("Contents", ())]

    def hashes(self) -> Counter[str]:
        """How many objects have a data set of each SHA-256."""
        return Counter(hashlib.sha256(self._data_set(key)).hexdigest() for key in self.keys())

    def uploads(self) -> list[Any]:
        """The multipart uploads that were begun and not ended; Any: as boto3 tells them."""
        return list(self.client.list_multipart_uploads(Bucket=self.name).get("Uploads", ()))

    def _data_set(self, key: str) -> bytes:
        with self._folder.joinpath("object").open("w+b") as file:
            self.client.download_fileobj(self.name, key, file)
            offset = part10.read_meta(file).offset
            file.seek(offset)
            return file.read()


def send(product: Product, objects: list[RawObject]) -> None:
    assert {one.status for one in send_raw(HOST, product.port, objects)} == {0}


def test_the_real_set_reaches_the_bucket_byte_for_byte(
    product: Product, swift: Swift, tmp_path: Path
) -> None:
    bucket = Bucket(swift, "real", tmp_path)
    product.apply(to_every(bucket.destination(swift.endpoint)))
    found = [read_raw(path) for path in real_set() if path.name not in DAMAGED]
    first, _others = by_uid([one for one in found if one.sop_instance_uid])
    objects = [under_a_new_uid(one) for one in first]
    send(product, objects)
    product.wait_idle(90)
    assert bucket.hashes() == hashed(objects)
    assert bucket.uploads() == []
    product.verify("--deep")


def test_cut_refused_and_killed_in_the_middle_it_loses_nothing(
    product: Product, swift: Swift, tmp_path: Path, rounds: int
) -> None:
    for number in range(rounds):
        one_round(product, swift, Bucket(swift, f"faults-{number}", tmp_path))


def in_parts() -> RawObject:
    """An object that goes in two parts of at most 5 MiB."""
    return raw(dataset(pixels=4_000_000, EncapsulatedDocument=bytes(2 << 20)))


def one_round(product: Product, swift: Swift, bucket: Bucket) -> None:
    objects = study_of(60) + [in_parts() for _ in range(6)] + study_of(20)
    with FaultProxy(swift.port) as proxy:
        proxy.fault = Fault("slow", rate=4 << 20)
        product.apply(to_every(bucket.destination(f"http://{HOST}:{proxy.port}")))
        send(product, objects)
        for fault in (
            Fault("cut", up_bytes=3 << 20, end="reset"),
            Fault("dumb", down_bytes=900, end="close"),
            Fault("shut", up_bytes=0, end="close"),
        ):
            more = len(bucket.keys()) + random.randint(3, 10)
            wait_until(lambda: len(bucket.keys()) >= more, seconds=60, what="more objects")  # noqa: B023 - called at once
            proxy.heal()
            proxy.fault = fault
            seen = proxy.passed
            assert proxy.wait_for_connections(seen + 2, 30), f"nobody came through {fault.name}"
            proxy.fault = Fault("slow", rate=4 << 20)
        kill_cluster(product, None)  # type: ignore[arg-type]  # it looks at no sink
        proxy.heal()
        wait_until(
            lambda: len(bucket.keys()) == len(objects), seconds=150, what="all of the objects"
        )
        product.wait_idle(90)
    assert bucket.hashes() == hashed(objects)
    assert bucket.uploads() == []
    product.verify("--deep")
