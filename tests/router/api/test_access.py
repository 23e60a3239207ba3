"""Who may call what: tokens only, scopes within permissions, and JSON for every refusal."""

from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from django.test import Client
from django.urls import URLPattern

from router.api import urls
from router.models import ApiToken, Replay
from router.services import clock
from tests import factories
from tests.replaying import planned
from tests.router.api.conftest import ProgramFor, token_of

ClientFor = Callable[..., Client]
pytestmark = pytest.mark.django_db

EVERYBODY = {"administrator", "operator", "radiologist", "auditor", "service"}
RUNNERS = {"administrator", "operator", "service"}
CONFIG = RUNNERS | {"auditor"}
SELECTION = {"selection": {"source": "ct-1"}, "only": "all"}

OPERATIONS: dict[tuple[str, str], tuple[set[str], object]] = {
    ("GET", "openapi.json"): (EVERYBODY, None),
    ("GET", "replays"): (RUNNERS, None),
    ("POST", "replays"): (RUNNERS, SELECTION),
    ("GET", "replays/<int:pk>"): (RUNNERS, None),
    ("POST", "replays/<int:pk>/confirm"): (RUNNERS, {"objects": 1}),
    ("POST", "replays/<int:pk>/pause"): (RUNNERS, None),
    ("POST", "replays/<int:pk>/resume"): (RUNNERS, None),
    ("POST", "replays/<int:pk>/cancel"): (RUNNERS, None),
    ("GET", "replays/<int:pk>/report"): (RUNNERS, None),
    ("GET", "jobs"): (EVERYBODY, None),
    ("GET", "jobs/<int:pk>"): (EVERYBODY, None),
    ("POST", "jobs/<verb>"): (RUNNERS, {"filter": {"destination": "pacs"}}),
    ("GET", "studies"): (EVERYBODY, None),
    ("POST", "studies/search"): (EVERYBODY, {}),
    ("GET", "studies/<uid>"): (EVERYBODY, None),
    ("GET", "studies/<uid>/routing"): (EVERYBODY, None),
    ("GET", "destinations"): (CONFIG, None),
    ("GET", "destinations/<name>"): (CONFIG, None),
}
CHANGES = {key for key in OPERATIONS if key[0] == "POST"} - {("POST", "studies/search")}


@pytest.fixture
def replay() -> Replay:
    """A plan of one object of one study for pacs."""
    job = factories.job(destination=factories.destination("pacs"))
    factories.item(job, state="delivered")
    return planned(source="ct-1")


def address(route: str, replay: Replay) -> str:
    study = replay.pairs.get().study
    pk = study.jobs.get().pk if route.startswith("jobs") else replay.pk
    for name, value in (
        *(("<int:pk>", pk), ("<verb>", "hold"), ("<uid>", study.study_instance_uid)),
        ("<name>", "pacs"),
    ):
        route = route.replace(name, str(value))
    return f"/api/v1/{route}"


def call(client: Client, key: tuple[str, str], replay: Replay) -> int:
    method, route = key
    data = OPERATIONS[key][1]
    where = address(route, replay)
    if method == "GET":
        return client.get(where).status_code
    return client.post(where, data or {}, content_type="application/json").status_code


def operations() -> Iterator[tuple[str, str]]:
    for pattern in urls.urlpatterns:
        assert isinstance(pattern, URLPattern)
        if pattern.name not in {"api-root", "absent"}:
            marks = getattr(pattern.callback, "access_by_method", {})
            yield from ((method, str(pattern.pattern)) for method in marks)


def test_every_operation_is_in_the_table() -> None:
    assert set(operations()) == set(OPERATIONS)


@pytest.mark.parametrize("role", sorted(EVERYBODY))
def test_tokens_serve_the_roles_that_may(
    program_for: ProgramFor, replay: Replay, role: str
) -> None:
    client = program_for(role)
    got = {key: call(client, key, replay) for key in OPERATIONS}
    allowed = {key for key, status in got.items() if status != 403}
    assert allowed == {key for key, (may, _data) in OPERATIONS.items() if role in may}
    assert {status for key, status in got.items() if key in allowed} <= {200, 202, 409}


def test_reading_does_not_permit_changing(program_for: ProgramFor, replay: Replay) -> None:
    reader = program_for("administrator", "api:read")
    assert {key for key in OPERATIONS if call(reader, key, replay) == 403} == CHANGES
    writer = program_for("administrator", "api:write")
    assert {key for key in OPERATIONS if call(writer, key, replay) != 403} == CHANGES
    other = program_for("administrator", "dicomweb:read", "metrics:read")
    assert {call(other, key, replay) for key in OPERATIONS} == {403}


def test_a_cookie_opens_nothing_and_nothing_redirects(
    client_for: ClientFor, client: Client, replay: Replay
) -> None:
    for caller in (client, client_for("administrator")):
        for method, route in OPERATIONS:
            answer = caller.generic(method, address(route, replay))
            assert answer.status_code == 401
            assert answer["WWW-Authenticate"] == 'Bearer realm="router"'
            assert answer["Content-Type"] == "application/problem+json"


def test_a_token_that_is_not_in_force_is_none(client: Client, roles: None) -> None:
    owner = factories.user(role="service")
    good = token_of(owner)
    headers = [f"Bearer {good[:-1]}", "Bearer ", f"Basic {good}", good]
    for given in headers:
        assert client.get("/api/v1/jobs", headers={"Authorization": given}).status_code == 401
    usual = {"Authorization": f"Bearer {good}"}
    assert client.get("/api/v1/jobs", headers=usual).status_code == 200
    with clock.shifted(timedelta(days=91)):
        assert client.get("/api/v1/jobs", headers=usual).status_code == 401
    ApiToken.objects.update(revoked_at=clock.now())
    assert client.get("/api/v1/jobs", headers=usual).status_code == 401


def test_an_owner_who_loses_the_role_loses_the_right(client: Client, roles: None) -> None:
    owner = factories.user(role="service")
    usual = {"Authorization": f"Bearer {token_of(owner)}"}
    assert client.get("/api/v1/replays", headers=usual).status_code == 200
    owner.role = factories.role("auditor")
    owner.save()
    assert client.get("/api/v1/replays", headers=usual).status_code == 403


@pytest.mark.parametrize(
    "where", ["", "nothing", "replays/", "replays/x", "studies/1.2.3/x", "docs"]
)
def test_what_is_no_address_is_told_as_json(program: Client, client: Client, where: str) -> None:
    answer = program.get(f"/api/v1/{where}")
    assert (answer.status_code, answer["Content-Type"]) == (404, "application/problem+json")
    assert answer.json()["title"] == "Not Found"
    assert client.get(f"/api/v1/{where}").status_code == 401


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])
def test_what_cannot_be_done_is_told_with_what_can(program: Client, method: str) -> None:
    answer = program.generic(method, "/api/v1/replays")
    assert (answer.status_code, answer["Allow"]) == (405, "GET, POST")


@pytest.mark.parametrize("body", ["", "{", "[]", "null", '"x"', '{"selection": 3}'])
def test_a_body_that_is_not_what_is_expected_is_told_without_repeating_it(
    program: Client, body: str
) -> None:
    answer = program.post("/api/v1/replays", body, content_type="application/json")
    assert answer.status_code in {400, 422}
    assert answer["Content-Type"] == "application/problem+json"


def test_what_was_sent_is_not_repeated(program: Client) -> None:
    wrong = {"selection": {"patient_id": ["P4711"], "patient": "P4711"}, "only": "P4711"}
    answer = program.post("/api/v1/replays", wrong, content_type="application/json")
    assert answer.status_code == 422
    assert "P4711" not in answer.content.decode()
    assert {error["pointer"] for error in answer.json()["errors"]} == {
        "body/wanted/selection/patient_id", "body/wanted/selection/patient", "body/wanted/only",
    }  # fmt: skip


def test_answers_are_kept_by_no_cache(program: Client, replay: Replay) -> None:
    for where in ("replays", f"replays/{replay.pk}", "studies", "jobs", "nothing"):
        assert "no-store" in program.get(f"/api/v1/{where}")["Cache-Control"], where
