"""The document says what is there, and no parameter of an address could hold patient data."""

from typing import Any  # JSON

import pytest
from django.test import Client

from tests.router.api.test_access import OPERATIONS

pytestmark = pytest.mark.django_db
PATIENT = ("patient", "birth", "accession", "name")


@pytest.fixture
def document(program: Client) -> dict[str, Any]:
    found: dict[str, Any] = program.get("/api/v1/openapi.json").json()
    return found


def test_has_every_operation_with_its_security_and_words(document: dict[str, Any]) -> None:
    told = {
        (method.upper(), route.removeprefix("/api/v1/").replace("{", "<").replace("}", ">"))
        for route, methods in document["paths"].items()
        for method in methods
    }
    wanted = {(m, r.replace("<int:pk>", "<pk>")) for m, r in OPERATIONS if r != "openapi.json"}
    assert told == wanted
    names = set()
    for methods in document["paths"].values():
        for one in methods.values():
            assert one["security"] == [{"Bearer": []}]
            assert one["description"]
            names.add(one["operationId"])
    assert len(names) == len(wanted)
    assert document["components"]["securitySchemes"]["Bearer"] == {
        "type": "http", "scheme": "bearer",
    }  # fmt: skip


def test_no_address_takes_patient_data(document: dict[str, Any]) -> None:
    for route, methods in document["paths"].items():
        for one in methods.values():
            for parameter in one.get("parameters", []):
                name = parameter["name"]
                is_ours = route == "/api/v1/destinations/{name}" and name == "name"
                assert is_ours or not any(word in name for word in PATIENT), (route, name)
