"""What a configuration may hold: every wrong thing is named with its line and path."""

from pathlib import Path

import pytest

from router.config import schema
from router.config.document import BUILT_IN_ROLES, Defaults, Document, Rule
from router.config.findings import ConfigError
from router.services import users

DESTINATIONS = """\
destinations:
  - {name: pacs, kind: dicom, host: 127.0.0.1, port: 4242, ae_title: ORTHANC}
"""
EXAMPLE = Path(__file__).resolve().parents[3] / "docs" / "example.yaml"


def findings(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        schema.load(text)
    return [str(finding) for finding in caught.value.findings]


def rule(text: str) -> Rule:
    """The one rule whose keys beside name and send are `text`, a flow mapping's inside."""
    return schema.load(
        f"version: 1\n{DESTINATIONS}rules:\n  - {{name: r, send: [pacs], {text}}}\n"
    ).rules[0]


def test_only_a_version_is_needed() -> None:
    assert schema.load("version: 1") == Document()


def test_lists_without_entries_are_empty() -> None:
    text = "version: 1\ndefaults:\nsources:\ndestinations:\nrules: []\nprofiles: []\nroles:\n"
    assert schema.load(text) == Document()


def test_the_example_of_the_contract() -> None:
    document = schema.load(
        """\
version: 1
defaults: {unmatched: archive, quiet: 90s, quiet_cap: 2h}
sources:
  - name: ct-1
    ae_title: CT1
    hosts: [10.1.0.0/16, "10.2.3.4/32"]
    services: [store, echo, commit]
    duplicates: quarantine
destinations:
  - {name: pacs, kind: dicom, host: 127.0.0.1, port: 4242, ae_title: ORTHANC, calling_ae: X}
  - {name: disk, kind: folder, path: "/srv/out", layout: "{StudyDate}/{SOPInstanceUID}.dcm"}
rules:
  - name: ct-to-pacs
    priority: 10
    state: live
    when:
      all:
        - {field: Modality, op: in, value: [CT, MR]}
        - {field: calling_ae, op: matches, value: "CT*"}
    on: study
    quiet: 60s
    send: [pacs, disk]
    transform: none
    stop: false
profiles: []
roles:
  - {name: viewer, permissions: [studies.view], limit: {modalities: [MR, CT]}}
"""
    )
    assert document.defaults == Defaults("archive", 90, 7200)
    assert document.sources[0].hosts == ("10.1.0.0/16", "10.2.3.4")
    assert document.sources[0].services == ("echo", "store", "commit")
    assert [one.name for one in document.destinations] == ["disk", "pacs"]
    found = document.rules[0]
    assert (found.on, found.quiet, found.send, found.transform) == (
        "study",
        60,
        ("pacs", "disk"),
        "",
    )
    assert document.roles[0].limit == {"modalities": ("CT", "MR")}


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("on: series", "on", "series"),
        ("quiet: 0s", "quiet", 0),
        ("priority: -3", "priority", -3),
        ("stop: true", "stop", True),
        ("enabled: false", "enabled", False),
        ("transform: none", "transform", ""),
        ("state: shadow", "state", "shadow"),
        ("urgency: urgent", "urgency", "urgent"),
        ("stop: false", "urgency", ""),
    ],
)
def test_keys_of_a_rule(text: str, field: str, value: object) -> None:
    assert getattr(rule(text), field) == value


def test_a_rule_is_live_unless_it_says_otherwise() -> None:
    found = rule("stop: false")
    assert (found.state, found.on, found.when, found.quiet) == ("live", "instance", None, None)


WRONG = [
    (
        "version: 1\ndestinations:\n  - {name: x, kind: folder, path: /o,\n     proof: committed}",
        "line 4: destinations[0].proof: committed is not possible here; accepted or verified is"
        " expected. Storage commitment is asked of dicom destinations.",
    ),
    ("version: 2", "line 1: version: version 2 is unknown; expected 1"),
    ("version: true", "line 1: version: version true is unknown; expected 1"),
    ("rules: []", "line 1: the key 'version' is missing; write version: 1"),
    ("[]", "line 1: a mapping is expected"),
    ("version: 1\nrule: []", "line 2: rule: 'rule' is unknown; expected one of: version,"),
    ("version: 1\nsources: {}", "line 2: sources: a list is expected"),
    ("version: 1\nsources: [x]", "line 2: sources[0]: a mapping is expected"),
    ("version: 1\nprofiles: [{name: x}]", "line 2: profiles[0]: profiles are not known yet"),
    (
        "version: 1\ndefaults:\n  quiet: 60",
        "line 3: defaults.quiet: '60' is no duration; write it like 30s",
    ),
    ("version: 1\ndefaults: {quiet: 9999d}", "defaults.quiet: '9999d' is too long"),
    (
        "version: 1\ndefaults: {unmatched: drop}",
        "defaults.unmatched: 'drop' is unknown; expected one of: hold, archive",
    ),
    ("version: 1\nsources:\n - name: a", "line 3: sources[0]: the key 'ae_title' is missing"),
    ("version: 1\nsources:\n - {ae_title: A}", "line 3: sources[0]: the key 'name' is missing"),
    ("version: 1\nsources: [{name: a b, ae_title: A}]", "sources[0].name: 'a b' is no name"),
    ("version: 1\nsources: [{name: a, ae_title: ''}]", "sources[0].ae_title: '' is no AE title"),
    (
        "version: 1\nsources: [{name: a, ae_title: ABCDEFGHIJKLMNOPQ}]",
        "sources[0].ae_title: 'ABCDEFGHIJKLMNOPQ' is no AE title",
    ),
    ("version: 1\nsources: [{name: a, ae_title: 'A\\B'}]", "is no AE title"),
    ("version: 1\nsources: [{name: a, ae_title: Ä}]", "is no AE title"),
    (
        "version: 1\nsources:\n - {name: a, ae_title: A}\n - {name: a, ae_title: B}",
        "line 4: sources[1]: the name 'a' is given twice, first on line 3",
    ),
    (
        "version: 1\nsources: [{name: a, ae_title: A, hosts: [ct.example]}]",
        "sources[0].hosts[0]: 'ct.example' is no address",
    ),
    (
        "version: 1\nsources: [{name: a, ae_title: A, hosts: [10.1.2.3/8]}]",
        "sources[0].hosts[0]: '10.1.2.3/8' has bits behind its prefix; expected 10.0.0.0/8",
    ),
    (
        "version: 1\nsources: [{name: a, ae_title: A, hosts: []}]",
        "sources[0].hosts: the list is empty",
    ),
    (
        "version: 1\nsources: [{name: a, ae_title: A, services: [store, store]}]",
        "sources[0].services[1]: 'store' is given twice",
    ),
    (
        "version: 1\nsources: [{name: a, ae_title: A, services: [print]}]",
        "sources[0].services[0]: 'print' is unknown; expected one of: echo, store, find,",
    ),
    (
        "version: 1\nsources: [{name: a, ae_title: A, enabled: on}]",
        "sources[0].enabled: 'on' is not true or false",
    ),
    (
        "version: 1\ndestinations:\n - {name: a, kind: fax}",
        "line 3: destinations[0].kind: 'fax' is unknown; expected one of: dicom, folder",
    ),
    ("version: 1\ndestinations: [{name: a}]", "destinations[0]: the key 'kind' is missing"),
    (
        "version: 1\ndestinations:\n - name: a\n   kind: dicom\n   host: h\n   port: 0\n"
        "   ae_title: A",
        "line 6: destinations[0].port:",
    ),
    (
        "version: 1\ndestinations:\n - {name: a, kind: folder}",
        "line 3: destinations[0].path: This field is required.",
    ),
    (
        "version: 1\ndestinations:\n - {name: a, kind: folder, path: /x, bucket: b}",
        "line 3: destinations[0].bucket: 'bucket' is unknown; expected one of: name, kind,",
    ),
    (
        f"version: 1\n{DESTINATIONS}"
        "  - {name: b, kind: dicom, host: h, port: 1,\n     ae_title: ORTHANC}",
        "line 5: destinations[1].ae_title: the AE title 'ORTHANC' is already that of 'pacs'",
    ),
    ("version: 1\nrules:\n - {name: r}", "line 3: rules[0]: the key 'send' is missing"),
    (
        "version: 1\nrules:\n - name: r\n   send: [pacs]",
        "line 4: rules[0].send[0]: the destination 'pacs' is unknown; expected one of: (no",
    ),
    (
        "version: 1\nrules: [{name: r, send: [], transform: deid}]",
        "rules[0].transform: 'deid' is unknown; expected one of: none",
    ),
    (
        "version: 1\nrules: [{name: r, send: [], urgency: high}]",
        "rules[0].urgency: 'high' is unknown; expected one of: urgent, normal, low",
    ),
    (
        "version: 1\nrules: [{name: r, send: [], when: }]",
        "rules[0].when: a condition is expected",
    ),
    (
        "version: 1\nrules: [{name: r, send: [], priority: high}]",
        "rules[0].priority: a whole number from",
    ),
    (
        "version: 1\nrules: [{name: r, send: [], on: arrival}]",
        "rules[0].on: 'arrival' is unknown; expected one of: instance, series, study",
    ),
    (
        "version: 1\nroles: [{name: operator, permissions: []}]",
        "roles[0].name: the built-in role 'operator' cannot be defined anew",
    ),
    ("version: 1\nroles: [{name: r}]", "roles[0]: the key 'permissions' is missing"),
    (
        "version: 1\nroles: [{name: r, permissions: [fly]}]",
        "roles[0].permissions[0]: 'fly' is unknown; expected one of: dashboard.view,",
    ),
    (
        "version: 1\nroles: [{name: r, permissions: [], limit: {sources: [ct]}}]",
        "roles[0].limit.sources[0]: the source 'ct' is unknown",
    ),
    (
        "version: 1\nroles: [{name: r, permissions: [], limit: {wards: [a]}}]",
        "roles[0].limit.wards: 'wards' is unknown; expected one of: sources, modalities,",
    ),
]


@pytest.mark.parametrize(("text", "expected"), WRONG, ids=[expected for _, expected in WRONG])
def test_refuses_with_line_and_path(text: str, expected: str) -> None:
    assert any(expected in finding for finding in findings(text)), findings(text)


def test_every_finding_comes_at_once_in_the_order_of_the_lines() -> None:
    found = findings(
        f"""\
version: 1
{DESTINATIONS}rules:
  - name: r
    send: [pacs, nowhere]
    when:
      all:
        - {{field: Modality, op: in, value: [CT]}}
        - {{field: Modality, op: equal, value: CT}}
        - not: {{field: Modalit, op: exists}}
        - any: []
colour: red
"""
    )
    assert [finding.partition(": ")[0] for finding in found] == [
        f"line {line}" for line in (6, 10, 11, 12, 13)
    ]
    assert "rules[0].when.all[1].op: unknown operator 'equal'; expected equals," in found[1]
    assert "rules[0].when.all[2].not.field: unknown keyword 'Modalit'" in found[2]
    assert "rules[0].when.all[3].any: not a list of conditions" in found[3]


def test_a_disabled_destination_may_share_an_ae_title() -> None:
    text = (
        f"version: 1\n{DESTINATIONS}"
        "  - {name: b, kind: dicom, host: h, port: 1, ae_title: ORTHANC, enabled: false}"
    )
    assert len(schema.load(text).destinations) == 2


def test_order_of_the_file_is_not_part_of_the_configuration() -> None:
    one, two = "{name: a, ae_title: A}", "{name: b, ae_title: B}"
    assert schema.load(f"version: 1\nsources: [{one}, {two}]") == schema.load(
        f"sources: [{two}, {one}]\nversion: 1"
    )


def test_built_in_roles_are_those_of_the_users_service() -> None:
    assert set(BUILT_IN_ROLES) == set(users.BUILT_IN)


def test_the_documented_example_is_right() -> None:
    assert schema.load(EXAMPLE.read_bytes()).rules
