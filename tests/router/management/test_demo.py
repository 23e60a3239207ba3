"""The demo: its configuration is valid, its studies are lawful, its PACS takes them."""

import random
import time
from pathlib import Path
from typing import Any

from router.config import schema
from router.destinations import KINDS
from router.destinations.base import Context, Verification
from router.management import demo, processes
from tests.ports import free_port


def _verify(port: int) -> Verification:
    return KINDS["dicom"].sender(_settings(port)).verify()


def _settings(port: int) -> dict[str, object]:
    form = KINDS["dicom"].form({"host": "127.0.0.1", "port": port, "ae_title": "DEMOPACS"})
    assert form.is_valid(), form.errors
    return dict(form.cleaned_data)


def test_the_configuration_is_valid(settings: Any, tmp_path: Path) -> None:  # Any: a fixture
    settings.DATA_DIR = tmp_path
    document = schema.load(demo.configuration(11999))
    assert {one.name for one in document.destinations} == {"demo-pacs", "demo-folder"}
    assert (tmp_path / "demo-out").is_dir()


def test_the_pacs_takes_every_made_up_study() -> None:
    port = free_port()
    pacs = processes.start(["demo_pacs", str(port)])
    try:
        limit = time.monotonic() + 30
        while not _verify(port).ok:
            assert time.monotonic() < limit
            time.sleep(0.1)
        for number, calling_ae in enumerate(demo.MODALITIES):
            made = demo.study(calling_ae, number, random.Random(number))
            items = [demo.outgoing(index, ds) for index, ds in enumerate(made)]
            results = KINDS["dicom"].sender(_settings(port)).send(items, Context())
            assert {str(result.outcome) for result in results} == {"delivered"}
    finally:
        assert processes.stop([pacs])
