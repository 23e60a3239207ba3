"""Writing a configuration: short, stable, and read back as the same value, also by other YAML."""

import json

import yaml
from hypothesis import given, settings

from router.config import dump, schema
from router.config.document import Document, Source
from router.config.tree import Data
from tests.router.config.documents import documents


@settings(max_examples=60)
@given(documents())
def test_what_is_written_reads_back_the_same(document: Document) -> None:
    assert schema.load(dump.to_yaml(document)) == document


@settings(max_examples=40)
@given(documents())
def test_a_revision_reads_back_the_same_with_the_same_digest(document: Document) -> None:
    data = dump.to_data(document)
    stored: Data = json.loads(json.dumps(data, sort_keys=True))
    again = schema.from_json(stored)
    assert again == document
    assert dump.digest(dump.to_data(again)) == dump.digest(data)


@settings(max_examples=40)
@given(documents())
def test_other_readers_of_yaml_see_the_same_data(document: Document) -> None:
    assert yaml.safe_load(dump.to_yaml(document)) == dump.to_data(document)


def test_defaults_are_left_out() -> None:
    assert dump.to_yaml(Document()) == "version: 1\n"
    document = Document(sources=(Source("ct", "CT1"),))
    assert dump.to_yaml(document) == "version: 1\n\nsources:\n- {name: ct, ae_title: CT1}\n"


def test_the_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert dump.digest({"a": 1, "b": [2]}) == dump.digest({"b": [2], "a": 1})
    assert dump.digest({"a": 1}) != dump.digest({"a": "1"})


def test_destinations_over_http_read_back_the_same() -> None:
    text = """
version: 1
destinations:
- {name: web, kind: stow, url: "https://10.1.2.3/dicom-web/", username: u, password_env: P}
- name: ris
  kind: webhook
  url: http://10.1.2.3:9999/hook
  secret_env: S
  outcomes: {"0409": retry}
  payload: {id: "{event_id}", nested: {list: ["{StudyInstanceUID}", 1, true, null]}}
"""
    document = schema.load(text)
    written = dump.to_yaml(document)
    assert schema.load(written) == document
    assert dump.to_yaml(schema.load(written)) == written
    assert "response_timeout" not in written
