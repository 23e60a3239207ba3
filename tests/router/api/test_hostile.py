"""Whatever a program sends is answered as the document says: never a 500, never a page."""

import json
from collections.abc import Iterator
from typing import Any  # JSON

import pytest
from django.test import Client

from router.models import JobItem, Replay
from tests import factories
from tests.replaying import planned
from tests.router.api.test_access import OPERATIONS, address

pytestmark = pytest.mark.django_db

HOSTILE: tuple[object, ...] = (
    None, True, -1, 0, 2**31, 2**63, 10**30, 1e308, "", " ", "\0", "a\0b", "\ud800", "x" * 70_000,
    "' OR 1=1 --", "../../x", "<script>", "{{ 7 * 7 }}", "=cmd()", "٣", "2026-02-30",
    "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "NaN", [], [[]], [-1], ["\0"],
    [10**30], {}, {"": ""}, {"__proto__": 1},
)  # fmt: skip
QUERIES = ("after", "limit", "state", "format", "destination", "rule", "source", "modality",
           "study_instance_uid", "replay", "cause", "study_date_from", "received_to",
           "created_before")  # fmt: skip


@pytest.fixture
def replay() -> Replay:
    job = factories.job(destination=factories.destination("pacs"))
    factories.item(job, state="delivered")
    return planned(source="ct-1")


@pytest.fixture
def document(program: Client) -> dict[str, Any]:
    found: dict[str, Any] = program.get("/api/v1/openapi.json").json()
    return found


def fields(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The properties of a schema, whatever it refers to."""
    if "$ref" in schema:
        return fields(document, document["components"]["schemas"][schema["$ref"].split("/")[-1]])
    found: dict[str, Any] = schema.get("properties", {})
    return found


def bodies(document: dict[str, Any], route: str) -> Iterator[dict[str, object]]:
    """For each field of a body, also of one inside it, each hostile value."""
    told = route.replace("<int:", "{").replace("<", "{").replace(">", "}")
    operation = document["paths"][f"/api/v1/{told}"]
    content = operation["post"].get("requestBody", {}).get("content", {})
    schema = content.get("application/json", {}).get("schema", {})
    usual = dict(OPERATIONS["POST", route][1] or {})  # type: ignore[call-overload]
    for name, inner in fields(document, schema).items():
        for value in HOSTILE:
            yield usual | {name: value}
        for part in fields(document, inner):
            for value in HOSTILE:
                yield usual | {name: {part: value}}


@pytest.mark.parametrize("key", sorted(key for key in OPERATIONS if key[0] == "POST"))
def test_hostile_bodies(
    program: Client, document: dict[str, Any], replay: Replay, key: tuple[str, str]
) -> None:
    where = address(key[1], replay)
    for body in bodies(document, key[1]):
        text = json.dumps(body)
        answer = program.post(where, text, content_type="application/json")
        assert answer.status_code in {200, 202, 400, 404, 409, 422}, (body, answer.content)
        assert "json" in answer["Content-Type"], body
    assert not JobItem.objects.filter(state="cancelled").exists()


@pytest.mark.parametrize("key", sorted(key for key in OPERATIONS if key[0] == "GET"))
def test_hostile_queries(program: Client, replay: Replay, key: tuple[str, str]) -> None:
    where = address(key[1], replay)
    for name in QUERIES:
        for value in HOSTILE:
            if value is None or value == "\ud800":
                continue  # no address can hold it
            answer = program.get(where, {name: value})  # type: ignore[arg-type]
            assert answer.status_code in {200, 404, 422}, (name, value, answer.content)


@pytest.mark.parametrize("route", ["replays/{}", "jobs/{}", "studies/{}", "studies/{}/routing",
                                   "destinations/{}", "replays/{}/report"])  # fmt: skip
@pytest.mark.parametrize("part", ["0", "9" * 30, "9" * 5000, "-1", "%00", "%ff", "a%2fb", "..", "~",
                                  "%27", "x" * 3000])  # fmt: skip
def test_hostile_addresses(program: Client, route: str, part: str) -> None:
    answer = program.get(f"/api/v1/{route.format(part)}")
    assert answer.status_code in ({404, 405} if route == "jobs/{}" else {404})
    assert answer["Content-Type"] == "application/problem+json"
