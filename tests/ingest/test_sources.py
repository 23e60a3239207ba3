"""Who is admitted: the semantics of `contract.md`, read from the file the configuration writes."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from ingest.sources import EVERY_SERVICE, SourceList, Sources, parse

EXACT: dict[str, Any] = {"name": "exact", "ae_title": "CT1", "duplicates": "versions"}
PATTERN: dict[str, Any] = {"name": "pattern", "ae_title": "CT*", "services": ["echo"]}
HOSTED: dict[str, Any] = {"name": "hosted", "ae_title": "M?", "hosts": ["10.1.0.0/16", "::1"]}


def listed(*rows: dict[str, Any]) -> SourceList:
    return parse(json.dumps({"revision": 3, "sources": list(rows)}))


@pytest.mark.parametrize(
    ("caller", "host", "name"),
    [
        ("CT1", "127.0.0.1", "exact"),
        ("CT1", "192.0.2.1", "exact"),
        ("CT12", "192.0.2.1", "pattern"),
        ("ct1", "192.0.2.1", None),
        ("M1", "10.1.255.255", "hosted"),
        ("M1", "::ffff:10.1.2.3", "hosted"),
        ("M1", "::1", "hosted"),
        ("M1", "10.2.0.1", None),
        ("M", "10.1.0.1", None),
        ("M12", "10.1.0.1", None),
        ("", "127.0.0.1", None),
    ],
)
def test_callers(caller: str, host: str, name: str | None) -> None:
    admission = listed(PATTERN, EXACT, HOSTED).admit(caller, host)
    assert (admission and admission.source) == name


def test_what_a_source_allows() -> None:
    sources = listed(EXACT, PATTERN)
    exact, pattern = sources.admit("CT1", "10.0.0.1"), sources.admit("CT2", "10.0.0.1")
    assert exact is not None
    assert (exact.services, exact.duplicates) == (frozenset({"echo", "store"}), "versions")
    assert pattern is not None
    assert (pattern.services, pattern.duplicates) == (frozenset({"echo"}), "quarantine")


def test_with_every_source_disabled_nobody_may_come() -> None:
    sources = listed({**EXACT, "enabled": False}, {**PATTERN, "enabled": False})
    assert sources.admit("CT1", "127.0.0.1") is None
    assert sources.admit("CT2", "10.0.0.1") is None


@pytest.mark.parametrize("sources", [SourceList("absent"), listed()])
def test_without_sources_loopback_may_do_everything(sources: SourceList) -> None:
    admission = sources.admit("ANY", "127.0.0.1")
    assert admission is not None
    assert (admission.source, admission.services) == (None, EVERY_SERVICE)
    assert sources.admit("ANY", "::1") is not None
    assert sources.admit("ANY", "10.0.0.1") is None


def test_special_characters_of_patterns_are_only_two() -> None:
    assert listed({"name": "a", "ae_title": "A[B].*"}).admit("AB.x", "127.0.0.1") is None
    assert listed({"name": "a", "ae_title": "A[B].*"}).admit("A[B].x", "127.0.0.1") is not None


def test_a_change_counts_at_once(tmp_path: Path) -> None:
    path = tmp_path / "sources.json"
    sources = Sources(path)
    assert sources.current().state == "absent"
    path.write_text(json.dumps({"revision": 1, "sources": [EXACT]}))
    assert sources.current().revision == 1
    path.write_text(json.dumps({"revision": 2, "sources": [EXACT]}))
    os.utime(path, ns=(1, 1))
    assert sources.current().revision == 2
    path.unlink()
    assert sources.current().state == "absent"


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"sources": [{}]}', '{"sources": [{"name": 1, "ae_title": "A", "hosts": ["x"]}]}'],
)
def test_a_broken_file_keeps_the_last_good_list_or_nobody(tmp_path: Path, text: str) -> None:
    path = tmp_path / "sources.json"
    path.write_text(text)
    assert Sources(path).current().admit("CT1", "127.0.0.1") is None
    path.write_text(json.dumps({"revision": 1, "sources": [EXACT]}))
    sources = Sources(path)
    assert sources.current().revision == 1
    path.write_text(text)
    assert sources.current().admit("CT1", "127.0.0.1") is not None
