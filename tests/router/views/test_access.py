"""Every page by every role: the allowed are served, the refused get 403, the anonymous log in."""

from collections.abc import Callable

import pytest
from django.test import Client
from django.urls import URLPattern, reverse

from router.models import AuditEvent, Replay, Study
from router.urls import urlpatterns
from tests.browser.seed import replays

ClientFor = Callable[..., Client]
EVERYBODY = {"administrator", "operator", "radiologist", "auditor"}
RUNNERS = {"administrator", "operator"}
CONFIG = RUNNERS | {"auditor"}

WISH = {"source": "ct-1", "only": "all", "route": "then", "content": "original", "rate": "5"}

PAGES: dict[str, tuple[dict[str, object], set[str]]] = {
    "dashboard": ({}, EVERYBODY),
    "studies": ({}, EVERYBODY),
    "studies-newer": ({}, EVERYBODY),
    "study": ({"pk": 0}, EVERYBODY),
    "jobs": ({}, EVERYBODY),
    "jobs-confirm": ({"query": "action=retry&all=1"}, RUNNERS),
    "job": ({"pk": 1}, EVERYBODY),
    "statistics": ({"query": "period=30"}, EVERYBODY),
    "triage": ({}, EVERYBODY),
    "triage-confirm": (
        {"query": "action=retry&destination=pacs-2&state=parked&sop_class=1.2.3"},
        RUNNERS,
    ),
    "replays": ({}, RUNNERS),
    "replay-new": ({}, RUNNERS),
    "replay": ({"replay": "running"}, RUNNERS),
    "replay-cancel": ({"replay": "running"}, RUNNERS),
    "replay-report": ({"replay": "done"}, RUNNERS),
    "quarantine": ({}, EVERYBODY),
    "quarantine-discard": ({"pk": -1}, RUNNERS),
    "rules": ({}, CONFIG),
    "destinations": ({}, CONFIG),
    "destination": ({"name": "pacs-2"}, CONFIG),
    "destination-new": ({"query": "kind=dicom"}, RUNNERS),
    "destination-edit": ({"name": "pacs-2"}, RUNNERS),
    "destination-remove": ({"name": "research"}, RUNNERS),
    "group-new": ({}, RUNNERS),
    "group-edit": ({"name": "archives"}, RUNNERS),
    "group-remove": ({"name": "archives"}, RUNNERS),
    "sources": ({}, CONFIG),
    "revisions": ({}, CONFIG),
    "revision": ({"number": 2}, CONFIG),
    "audit": ({}, EVERYBODY),
    "users": ({}, {"administrator", "auditor"}),
    "secrets": ({}, {"administrator"}),
    "system": ({}, CONFIG),
    "metrics": ({}, CONFIG),
    "password": ({}, EVERYBODY),
}
POSTS: dict[str, tuple[dict[str, object], set[str]]] = {
    "jobs-apply": ({"data": {"action": "retry", "all": "1"}}, RUNNERS),
    "triage-apply": (
        {
            "data": {
                "action": "retry",
                "destination": "pacs-2",
                "state": "parked",
                "sop_class": "1.2.3",
            }
        },
        RUNNERS,
    ),
    "replay-new": ({"data": WISH}, RUNNERS),
    "replay-confirm": ({"replay": "planned"}, RUNNERS),
    "replay-pause": ({"replay": "running"}, RUNNERS),
    "replay-resume": ({"replay": "running"}, RUNNERS),
    "replay-cancel": ({"replay": "planned"}, RUNNERS),
    "quarantine-release": ({"pk": -1}, RUNNERS),
    "quarantine-discard": ({"pk": -1}, RUNNERS),
    "destination-resume": ({"name": "pacs-2"}, RUNNERS),
    "destination-drain": ({"name": "archive"}, RUNNERS),
    "destination-pause": ({"name": "archive"}, RUNNERS),
    "destination-verify": ({"name": "research"}, RUNNERS),
    "destination-rehearse": ({"name": "research"}, RUNNERS),
    "secret-remove": ({"name": "unknown"}, {"administrator"}),
    "study-route": ({"pk": 0}, RUNNERS),
    "study-search": ({"data": {"q": "ACC"}}, EVERYBODY),
}
PUBLIC = {"login", "logout", "theme", "healthz", "readyz"}


@pytest.fixture
def story(story: Study) -> Study:
    """Add replays in three states."""
    replays()
    return story


def address(name: str, given: dict[str, object], story: Study) -> str:
    arguments = {k: v for k, v in given.items() if k in {"pk", "name", "number"}}
    if arguments.get("pk") == 0:
        arguments["pk"] = story.pk
    if arguments.get("pk") == -1:
        arguments["pk"] = story.instances.filter(state="quarantined").earliest("pk").pk
    if "replay" in given:
        arguments["pk"] = Replay.objects.get(state=given["replay"]).pk
    if name == "job":
        arguments["pk"] = story.jobs.earliest("pk").pk
    query = f"?{given['query']}" if "query" in given else ""
    return reverse(name, kwargs=arguments) + query


def test_every_address_is_in_these_tables() -> None:
    named = {one.name for one in urlpatterns if isinstance(one, URLPattern)}

    assert named == set(PAGES) | set(POSTS) | PUBLIC


@pytest.mark.django_db
@pytest.mark.parametrize("role", sorted(EVERYBODY))
def test_pages_serve_the_roles_that_may(client_for: ClientFor, story: Study, role: str) -> None:
    client = client_for(role)

    got = {
        name: client.get(address(name, given, story)).status_code
        for name, (given, _) in PAGES.items()
    }

    assert got == {name: 200 if role in may else 403 for name, (_, may) in PAGES.items()}


@pytest.mark.django_db
@pytest.mark.parametrize("role", sorted(EVERYBODY))
@pytest.mark.parametrize("name", sorted(POSTS))
def test_actions_obey_the_roles(client_for: ClientFor, story: Study, role: str, name: str) -> None:
    given, may = POSTS[name]

    got = client_for(role).post(address(name, given, story), given.get("data", {}))

    assert got.status_code in ({200, 302} if role in may else {403})


@pytest.mark.django_db
def test_anonymous_readers_log_in_first(client: Client, story: Study) -> None:
    for name, (given, _may) in PAGES.items():
        where = address(name, given, story)
        got = client.get(where)
        if name == "metrics":
            assert got.status_code == 401
        else:
            assert (got.status_code, got["Location"].split("?")[0]) == (302, "/login/"), name


@pytest.mark.django_db
def test_anonymous_actions_are_refused(client: Client, story: Study) -> None:
    for name, (given, _may) in POSTS.items():
        got = client.post(address(name, given, story))
        assert got["Location"].startswith("/login/"), name


@pytest.mark.django_db
@pytest.mark.parametrize("name", sorted(set(POSTS) - set(PAGES)))
def test_get_changes_nothing(client_for: ClientFor, story: Study, name: str) -> None:
    given, _may = POSTS[name]

    assert client_for("administrator").get(address(name, given, story)).status_code == 405


@pytest.mark.django_db
@pytest.mark.parametrize("name", sorted(POSTS))
def test_actions_need_the_csrf_token(roles: None, story: Study, name: str) -> None:
    from tests import factories

    client = Client(enforce_csrf_checks=True)
    client.force_login(factories.user(), backend="django.contrib.auth.backends.ModelBackend")
    given, _may = POSTS[name]

    got = client.post(address(name, given, story), given.get("data", {}))

    assert got.status_code == 403
    assert "form is out of date" in got.content.decode()


@pytest.mark.django_db
def test_navigation_leads_only_where_the_role_may_go(client_for: ClientFor, roles: None) -> None:
    for role in EVERYBODY:
        client = client_for(role)
        groups = client.get("/").context["navigation"]
        links = [link.address for _label, members in groups for link in members]
        assert {client.get(link).status_code for link in links} == {200}


@pytest.mark.django_db
def test_opening_a_study_is_audited_once(client_for: ClientFor, story: Study) -> None:
    AuditEvent.objects.all().delete()
    client = client_for("operator")

    client.get(f"/studies/{story.pk}/")
    client.get(f"/studies/{story.pk}/", headers={"HX-Request": "true", "HX-Target": "x"})

    viewed = AuditEvent.objects.filter(event="study.viewed")
    assert [event.study_instance_uid for event in viewed] == [story.study_instance_uid]
