"""Stored secrets: nothing gives one away, no row takes another's, rotation loses none (R55)."""

import base64
import io
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from django.core.management import call_command
from django.db import connection
from django.test import Client
from pytest_django import Settings

from router import secrets as ring
from router.config import schema
from router.config.findings import ConfigError
from router.models import AuditEvent, ConfigRevision, Destination, Secret
from router.services import config, secrets
from router.services.actors import Actor
from tests import factories

ClientFor = Callable[..., Client]
ACTOR = Actor("test")


@pytest.fixture(autouse=True)
def _ring(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(base64.urlsafe_b64encode(os.urandom(32)).decode())
    settings.KEYS_FILE = path


@pytest.mark.django_db
class TestPutAndReveal:
    def test_reveals_what_was_put_last(self) -> None:
        assert secrets.put("pacs", "hunter2", actor=ACTOR)
        assert not secrets.put("pacs", "hunter3", actor=ACTOR)
        assert secrets.reveal("pacs") == "hunter3"
        assert ring.resolve({"password_stored": "pacs"}, "password") == "hunter3"

    def test_a_name_without_a_secret_is_unresolved(self) -> None:
        with pytest.raises(ring.Unresolved, match="no secret 'pacs' is stored"):
            ring.resolve({"password_stored": "pacs"}, "password")

    @pytest.mark.parametrize(
        ("name", "value"),
        [("a b", "x"), ("", "x"), ("n" * 65, "x"), ("n", ""), ("n", "a\nb"), ("n", "x" * 4097)],
    )
    def test_refuses_what_is_no_name_or_no_line(self, name: str, value: str) -> None:
        with pytest.raises(secrets.SecretError, match="expected") as caught:
            secrets.put(name, value, actor=ACTOR)
        assert not value.strip("x") or value not in str(caught.value)
        assert not Secret.objects.exists()

    def test_ciphertexts_that_change_places_do_not_open(self) -> None:
        for name in ("one", "two"):
            secrets.put(name, f"secret of {name}", actor=ACTOR)
        one, two = Secret.objects.order_by("name")
        Secret.objects.filter(pk=one.pk).update(envelope=bytes(two.envelope))
        Secret.objects.filter(pk=two.pk).update(envelope=bytes(one.envelope))
        for name in ("one", "two"):
            with pytest.raises(ring.Unreadable, match=f"'{name}' does not open"):
                secrets.reveal(name)

    def test_one_that_is_named_stays(self) -> None:
        secrets.put("pacs", "hunter2", actor=ACTOR)
        row = factories.destination("cloud", settings={"password_stored": "pacs"})
        with pytest.raises(secrets.SecretError, match="still named by cloud"):
            secrets.remove("pacs", actor=ACTOR)
        row.removed = True
        row.save()
        secrets.remove("pacs", actor=ACTOR)
        assert not Secret.objects.exists()
        with pytest.raises(secrets.SecretError, match="No secret 'pacs' is stored"):
            secrets.remove("pacs", actor=ACTOR)


@pytest.mark.django_db
def test_nothing_gives_away_one_of_twenty(
    client_for: ClientFor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    planted = {f"secret-{number}": uuid4().hex for number in range(20)}
    for name, value in planted.items():
        secrets.put(name, value, actor=ACTOR)
        settings = {"host": "10.1.1.1", "port": 104, "ae_title": "X", "password_stored": name}
        factories.destination(f"to-{name}", settings=settings)
        assert ring.resolve(settings, "password") == value
    secrets.rotate(actor=ACTOR)
    client = client_for("administrator")
    client.post("/secrets/", {"name": "typed", "value": "typed-in-the-console"})
    client.post("/secrets/", {"name": "no name", "value": "typed-by-mistake"})
    pages = "".join(
        client.get(address).content.decode()
        for address in ("/secrets/", "/destinations/", "/destinations/to-secret-3/", "/audit/")
    )
    dump = io.StringIO()
    call_command("dumpdata", stdout=dump)
    told = pages + dump.getvalue() + config.export() + caplog.text + _rows()

    assert "secret-3" in pages
    assert secrets.reveal("typed") == "typed-in-the-console"
    for value in [*planted.values(), "typed-in-the-console", "typed-by-mistake"]:
        for written in (value, base64.b64encode(value.encode()).decode(), value.encode().hex()):
            assert written not in told
    assert AuditEvent.objects.filter(event="secret.stored").count() == 21


def _rows() -> str:
    """Return every value of every table, as the database has it."""
    told = []
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f'SELECT * FROM "{table}"')  # noqa: S608 - names of our own tables
            for row in cursor.fetchall():
                values = (bytes(v) if isinstance(v, memoryview) else v for v in row)
                told.append("".join(v.decode("latin-1") if isinstance(v, bytes) else str(v)
                                    for v in values))  # fmt: skip
    return "\n".join(told)


@pytest.mark.django_db(transaction=True)
def test_rotation_under_load_loses_none() -> None:
    count, rounds = 120, 3
    expected = {f"s{number}": f"first {number}" for number in range(count)}
    for name, value in expected.items():
        secrets.put(name, value, actor=ACTOR)
    wrong: list[str] = []
    ended = threading.Event()
    readers = [threading.Thread(target=_read, args=(expected, wrong, ended)) for _ in range(2)]
    writer = threading.Thread(target=_write, args=(expected, ended))
    for thread in (*readers, writer):
        thread.start()
    keys = set()
    try:
        for _ in range(rounds):
            keys.add(ring.add_key())
            done = secrets.rotate(actor=ACTOR, batch=7)
            assert done.unreadable == ()
    finally:
        ended.set()
        for thread in (*readers, writer):
            thread.join()
    secrets.rotate(actor=ACTOR)

    assert len(keys) == rounds
    assert wrong == []
    assert {name: secrets.reveal(name) for name in expected} == expected
    assert set(Secret.objects.values_list("key_id", flat=True)) == {ring.newest_key()}


def _read(expected: dict[str, str], wrong: list[str], ended: threading.Event) -> None:
    try:
        while not ended.is_set():
            for name in ("s0", "s11", "s119"):
                if secrets.reveal(name) != expected[name]:
                    wrong.append(name)
    except ring.Unresolved as error:
        wrong.append(str(error))
    finally:
        connection.close()


def _write(expected: dict[str, str], ended: threading.Event) -> None:
    number = 0
    try:
        while not ended.is_set():
            number += 1
            name = f"s{20 + number % 50}"
            secrets.put(name, f"again {number}", actor=ACTOR)
            expected[name] = f"again {number}"
    finally:
        connection.close()


@pytest.mark.django_db
def test_rotation_names_what_does_not_open_and_goes_on() -> None:
    for name in ("one", "two", "three"):
        secrets.put(name, f"secret of {name}", actor=ACTOR)
    Secret.objects.filter(name="two").update(envelope=b"\x01" + bytes(40))
    ring.add_key()

    done = secrets.rotate(actor=ACTOR, batch=1)

    assert (done.count, [name for name, _why in done.unreadable]) == (2, ["two"])
    assert secrets.reveal("three") == "secret of three"


CONFIGURATION = """
version: 1
destinations:
  - {name: web, kind: stow, url: "http://10.1.2.3/dicom-web", username: u, password_stored: pacs}
"""


@pytest.mark.django_db
def test_a_configuration_names_only_what_is_stored() -> None:
    document = schema.load(CONFIGURATION)
    for dry_run in (True, False):
        with pytest.raises(ConfigError, match="no secret 'pacs' is stored"):
            config.apply(document, actor=ACTOR, dry_run=dry_run)
    assert not Destination.objects.exists()

    secrets.put("pacs", "hunter2", actor=ACTOR)
    config.apply(document, actor=ACTOR)
    exported = config.export()

    assert "password_stored: pacs" in exported
    assert "hunter2" not in exported
    assert config.apply(schema.load(exported), actor=ACTOR).changes == ()
    version = Destination.objects.get().version
    assert version is not None
    assert ring.resolve(version.settings, "password") == "hunter2"
    assert secrets.uses() == {"pacs": ["web"]}


@pytest.mark.django_db
def test_a_secret_that_is_replaced_is_used_at_once_and_needs_no_revision() -> None:
    secrets.put("pacs", "hunter2", actor=ACTOR)
    config.apply(schema.load(CONFIGURATION), actor=ACTOR)
    revisions = ConfigRevision.objects.count()

    secrets.put("pacs", "hunter3", actor=ACTOR)

    version = Destination.objects.get().version
    assert version is not None
    assert ring.resolve(version.settings, "password") == "hunter3"
    assert ConfigRevision.objects.count() == revisions
