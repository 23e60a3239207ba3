"""Signing in and out."""

from collections.abc import Callable

import pytest
from django.test import Client

from router.models import AuditEvent
from tests import factories

ClientFor = Callable[..., Client]


def sign_in(client: Client, name: str, password: str = factories.PASSWORD, **data: str) -> object:
    return client.post("/login/", {"username": name, "password": password, **data})


@pytest.mark.django_db
def test_signs_in_and_goes_where_it_was_asked(client: Client) -> None:
    factories.user("ann")

    got = client.post(
        "/login/", {"username": "ann", "password": factories.PASSWORD, "next": "/jobs/"}
    )

    assert got["Location"] == "/jobs/"
    assert AuditEvent.objects.get(event="login.success").actor == "ann"


@pytest.mark.django_db
@pytest.mark.parametrize("elsewhere", ["https://evil.example/", "//evil.example", "javascript:x"])
def test_never_leads_elsewhere(client: Client, elsewhere: str) -> None:
    factories.user("ann")

    got = client.post(
        "/login/", {"username": "ann", "password": factories.PASSWORD, "next": elsewhere}
    )

    assert got["Location"] == "/"


@pytest.mark.django_db
def test_refuses_a_wrong_password_and_keeps_the_name(client: Client) -> None:
    factories.user("ann")

    got = client.post("/login/", {"username": "ann", "password": "wrong"})

    assert "password is wrong" in got.content.decode()
    assert 'value="ann"' in got.content.decode()
    assert AuditEvent.objects.get(event="login.failure").actor == "ann"


@pytest.mark.django_db
def test_does_not_write_down_a_password_typed_as_a_name(client: Client) -> None:
    client.post("/login/", {"username": "my secret passphrase", "password": "x"})

    assert AuditEvent.objects.get(event="login.failure").actor == "(unknown name)"


@pytest.mark.django_db
@pytest.mark.parametrize(("role", "words"), [("service", "for programs")])
def test_refuses_accounts_of_programs(client: Client, role: str, words: str) -> None:
    factories.user("robot", role=role)

    got = client.post("/login/", {"username": "robot", "password": factories.PASSWORD})

    assert words in got.content.decode()
    assert "_auth_user_id" not in client.session


@pytest.mark.django_db
def test_locks_the_pair_of_name_and_address_only(client: Client) -> None:
    factories.user("ann")
    factories.user("bob")
    for _try in range(5):
        got = client.post("/login/", {"username": "ann", "password": "wrong"})

    assert got.status_code == 429
    assert "Locked for a while" in got.content.decode()
    locked = client.post("/login/", {"username": "ann", "password": factories.PASSWORD})
    assert locked.status_code == 429
    other = Client(REMOTE_ADDR="10.9.9.9")
    assert (
        other.post("/login/", {"username": "ann", "password": factories.PASSWORD}).status_code
        == 302
    )
    assert (
        client.post("/login/", {"username": "bob", "password": factories.PASSWORD}).status_code
        == 302
    )


@pytest.mark.django_db
def test_signs_out(client_for: ClientFor) -> None:
    client = client_for("operator")

    assert client.get("/logout/").status_code == 405
    assert client.post("/logout/")["Location"] == "/login/"
    assert client.get("/")["Location"].startswith("/login/")
    assert AuditEvent.objects.filter(event="logout").count() == 1


@pytest.mark.django_db
def test_changes_the_password_and_ends_other_sessions(client: Client) -> None:
    person = factories.user("ann")
    other = Client()
    for one in (client, other):
        one.force_login(person, backend="django.contrib.auth.backends.ModelBackend")
    new = "another horse altogether"
    weak = {"old_password": factories.PASSWORD, "new_password1": "short", "new_password2": "short"}

    assert "at least 12 characters" in client.post("/password/", weak).content.decode()
    strong = weak | {"new_password1": new, "new_password2": new}
    assert client.post("/password/", strong).status_code == 302
    assert client.get("/").status_code == 200
    assert other.get("/").status_code == 302
    person.refresh_from_db()
    assert person.password.startswith("argon2")


@pytest.mark.django_db
def test_theme_is_remembered_and_unknown_ones_are_not(client: Client) -> None:
    client.post("/theme/", {"theme": "dark"})
    assert 'data-theme="dark"' in client.get("/login/").content.decode()

    client.post("/theme/", {"theme": '"><script>'})
    assert "data-theme" not in client.get("/login/").content.decode()
