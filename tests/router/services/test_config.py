"""Applying a configuration: whole or not at all, one revision, and what it does to open work."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import IntegrityError
from django.db.models import signals
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis.extra.django import TestCase
from pytest_django.fixtures import Settings

from ingest.sources import parse
from router.config import plan, schema
from router.config.document import Document
from router.config.findings import ConfigError
from router.models import (
    AuditEvent,
    ConfigRevision,
    Destination,
    DestinationGroup,
    DestinationVersion,
    ItemState,
    JobItem,
    Lane,
    LaneState,
    Role,
    RoutingDefaults,
    Rule,
    Source,
    User,
)
from router.services import config, failover, groups
from router.services.actors import Actor, ActorKind
from router.services.clock import now
from tests import factories
from tests.router.config.documents import documents

ACTOR = Actor("ann", ActorKind.SYSTEM)
TEXT = """\
version: 1
defaults: {unmatched: archive, quiet: 5m}
sources:
  - {name: ct, ae_title: CT1, hosts: [10.1.0.0/16], services: [echo, store], duplicates: versions}
destinations:
  - {name: pacs, kind: dicom, host: 127.0.0.1, port: 4242, ae_title: PACS, associations: 3}
  - {name: disk, kind: folder, path: /srv/out}
rules:
  - name: all
    state: live
    when: {not: {field: PatientID, op: equals, value: "0042"}}
    on: study
    quiet: 90s
    send: [pacs, disk]
roles:
  - {name: viewer, permissions: [studies.view], limit: {sources: [ct]}}
"""
EMPTY = "version: 1\n"


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, settings: Settings) -> Path:
    """Give every test a data directory of its own."""
    settings.DATA_DIR = tmp_path
    return tmp_path


def apply(text: str, *, dry_run: bool = False) -> config.Applied:
    return config.apply(schema.load(text), actor=ACTOR, dry_run=dry_run)


@pytest.mark.django_db
class TestApply:
    def test_writes_every_row(self) -> None:
        applied = apply(TEXT)
        assert applied.revision is not None
        assert (applied.revision.number, applied.revision.actor) == (2, "ann")
        defaults = RoutingDefaults.objects.get()
        assert (defaults.unmatched, defaults.quiet_seconds) == ("archive", 300)
        assert Source.objects.get().duplicates == "versions"
        pacs = Destination.objects.get(name="pacs")
        assert pacs.version is not None
        assert pacs.version.settings["port"] == 4242
        assert pacs.version.revision == applied.revision
        assert pacs.lane.state == LaneState.OPEN
        rule = Rule.objects.get()
        assert (rule.trigger, rule.quiet_seconds, rule.send) == ("study", 90, ["pacs", "disk"])
        assert Role.objects.get(name="viewer").limit == {"sources": ["ct"]}

    def test_twice_is_no_change(self) -> None:
        apply(TEXT)
        before = ConfigRevision.objects.count(), AuditEvent.objects.count()
        again = apply(TEXT)
        assert (again.revision, again.changes) == (None, ())
        assert (ConfigRevision.objects.count(), AuditEvent.objects.count()) == before

    def test_nothing_on_a_fresh_system_leaves_no_revision(self) -> None:
        assert apply(EMPTY).revision is None
        assert not ConfigRevision.objects.exists()

    def test_a_dry_run_shows_the_plan_and_changes_nothing(self) -> None:
        applied = apply(TEXT, dry_run=True)
        assert applied.revision is None
        assert "+ source ct" in plan.text(applied.changes)
        assert not Source.objects.exists()
        assert not ConfigRevision.objects.exists()

    def test_says_who_and_what_in_the_audit_log(self) -> None:
        apply(TEXT)
        event = AuditEvent.objects.get(event="config.applied")
        assert (event.actor, event.target) == ("ann", "configuration revision 2")
        assert {change["name"] for change in event.details["changes"]} >= {"ct", "pacs", "all"}

    def test_a_failure_in_the_middle_leaves_nothing(self) -> None:
        broken = replace(schema.load(TEXT), roles=())
        rule = replace(broken.rules[0], stop=None)  # type: ignore[arg-type]  # what no file can say
        with pytest.raises(IntegrityError):
            config.apply(replace(broken, rules=(rule,)), actor=ACTOR)
        for model in (Source, Destination, DestinationVersion, Rule, ConfigRevision, AuditEvent):
            assert not model.objects.exists()

    def test_what_the_file_leaves_out_goes(self) -> None:
        apply(TEXT)
        apply(EMPTY)
        assert not Source.objects.exists()
        assert not Rule.objects.exists()
        assert not Role.objects.filter(name="viewer").exists()
        assert RoutingDefaults.objects.get().unmatched == "hold"
        assert not Destination.objects.present().exists()
        assert Destination.objects.count() == 2

    def test_a_role_in_use_stays_and_so_does_all_else(self) -> None:
        apply(TEXT)
        factories.user("bob", role="viewer")
        with pytest.raises(ConfigError, match="role 'viewer' is still that of 1 users"):
            apply(EMPTY)
        with pytest.raises(ConfigError, match="role 'viewer'"):
            apply(EMPTY, dry_run=True)
        assert Source.objects.exists()

    def test_a_disabled_role_allows_nothing(self) -> None:
        apply(TEXT)
        user = factories.user("bob", role="viewer")
        assert user.may("studies.view")
        apply(TEXT.replace("{name: viewer,", "{name: viewer, enabled: false,"))
        assert not User.objects.get(username="bob").may("studies.view")

    def test_built_in_roles_are_no_part_of_it(self, roles: None) -> None:
        assert config.current() == Document()
        apply(EMPTY)
        assert Role.objects.filter(built_in=True).count() == 5


GROUPED = TEXT.replace("send: [pacs, disk]", "send: [pool]").replace(
    "rules:\n", "groups:\n  - {name: pool, kind: failover, members: [pacs, disk]}\nrules:\n"
)


@pytest.mark.django_db
class TestGroups:
    def test_a_group_is_written_changed_removed_and_brought_back(self) -> None:
        apply(GROUPED)
        row = DestinationGroup.objects.get()
        assert (row.kind, row.members, row.returns) == ("failover", ["pacs", "disk"], True)
        assert schema.load(config.export()) == schema.load(GROUPED)
        changed = GROUPED.replace("members: [pacs, disk]", "members: [disk], return: false")
        apply(changed)
        row.refresh_from_db()
        assert (row.members, row.former, row.returns) == (["disk"], ["pacs"], False)
        apply(TEXT)
        row.refresh_from_db()
        assert row.removed
        assert config.current().groups == ()
        apply(GROUPED)
        row.refresh_from_db()
        assert (row.removed, row.former) == (False, [])
        assert DestinationGroup.objects.count() == 1

    def test_studies_of_a_destination_that_is_removed_go_to_another_member(self) -> None:
        apply(GROUPED)
        study = factories.study()
        one = groups.assigned([(study.pk, "pool")])[study.pk, "pool"]
        pacs = Destination.objects.get(name="pacs")
        assert one.member == pacs
        grouped = factories.item(factories.job(study, destination=pacs, assignment=one))
        alone = factories.item(factories.job(destination=pacs))
        text = GROUPED.replace("members: [pacs, disk]", "members: [disk]")
        apply(re.sub(r"  - {name: pacs,.*\n", "", text))
        for item in (grouped, alone):
            item.refresh_from_db()
        assert (grouped.state, alone.state) == (ItemState.PENDING, ItemState.HELD)
        assert failover.run(5) == 1
        one.refresh_from_db()
        assert one.member.name == "disk"


@pytest.mark.django_db
class TestDestinations:
    def item(self, state: ItemState) -> JobItem:
        destination = Destination.objects.get(name="pacs")
        return factories.item(factories.job(destination=destination), state=state)

    def test_another_address_holds_what_is_open_until_it_is_released(self) -> None:
        apply(TEXT)
        waiting = [self.item(ItemState.PENDING), self.item(ItemState.WAITING)]
        leased, done = self.item(ItemState.LEASED), self.item(ItemState.DELIVERED)
        apply(TEXT.replace("4242", "4243"))
        for item in [*waiting, leased, done]:
            item.refresh_from_db()
        assert {item.state for item in waiting} == {ItemState.HELD}
        assert waiting[0].reason == (
            "The address of pacs was changed in revision 3; release to send there."
        )
        assert (leased.state, done.state) == (ItemState.LEASED, ItemState.DELIVERED)
        pacs = Destination.objects.select_related("version").get(name="pacs")
        assert pacs.version is not None
        assert (pacs.endpoint, pacs.version.number, pacs.version.endpoint) == (2, 2, 2)
        assert leased.endpoint == 1
        event = AuditEvent.objects.get(event="items.held")
        assert (event.details["count"], event.target) == (2, "destination pacs")

    def test_another_kind_is_another_address(self) -> None:
        apply(TEXT)
        item = self.item(ItemState.PENDING)
        old = "kind: dicom, host: 127.0.0.1, port: 4242, ae_title: PACS"
        apply(TEXT.replace(old, "kind: folder, path: /srv/pacs"))
        item.refresh_from_db()
        assert item.state == ItemState.HELD
        pacs = Destination.objects.get(name="pacs")
        assert (pacs.kind, pacs.endpoint) == ("folder", 2)

    def test_tls_is_part_of_the_address_and_what_is_sent_is_not(self) -> None:
        apply(TEXT)
        item = self.item(ItemState.PENDING)
        secure = "associations: 3, tls: true, tls_ca: /etc/ca.pem, tls_certificate: /etc/us.pem"
        syntaxes = "transfer_syntax: [JPEG2000Lossless, ExplicitVRLittleEndian]"
        classes = "sop_classes: {deny: [RawDataStorage]}"
        apply(TEXT.replace("associations: 3", f"{syntaxes}, {classes}"))
        item.refresh_from_db()
        assert item.state == ItemState.PENDING
        apply(TEXT.replace("associations: 3", f"{secure}, {syntaxes}, {classes}"))
        item.refresh_from_db()
        assert item.state == ItemState.HELD
        assert apply(config.export()).changes == ()
        exported = config.export()
        assert "tls_ca: /etc/ca.pem" in exported
        assert "transfer_syntax: [1.2.840.10008.1.2.4.90, 1.2.840.10008.1.2.1]" in exported
        assert "deny: [1.2.840.10008.5.1.4.1.1.66]" in exported

    def test_other_settings_make_a_version_and_hold_nothing(self) -> None:
        apply(TEXT)
        item = self.item(ItemState.PENDING)
        apply(TEXT.replace("associations: 3", "associations: 4"))
        item.refresh_from_db()
        assert item.state == ItemState.PENDING
        assert Destination.objects.get(name="pacs").endpoint == 1
        numbers = DestinationVersion.objects.filter(destination__name="pacs")
        assert sorted(numbers.values_list("number", flat=True)) == [1, 2]

    def test_switching_off_makes_no_version(self) -> None:
        apply(TEXT)
        apply(TEXT.replace("associations: 3", "associations: 3, enabled: false"))
        pacs = Destination.objects.get(name="pacs")
        assert not pacs.enabled
        assert pacs.versions.count() == 1

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            (LaneState.STOPPED, LaneState.OPEN),
            (LaneState.BACKOFF, LaneState.OPEN),
            (LaneState.PAUSED, LaneState.PAUSED),
        ],
    )
    def test_other_settings_open_a_stopped_lane(self, before: LaneState, after: LaneState) -> None:
        apply(TEXT)
        lane = Destination.objects.get(name="pacs").lane
        lane.state, lane.failures, lane.reason = before, 7, "no answer"
        lane.save()
        apply(TEXT.replace("associations: 3", "associations: 4"))
        lane.refresh_from_db()
        assert lane.state == after
        assert (lane.failures == 0) == (after == LaneState.OPEN)

    @pytest.mark.parametrize(
        ("change", "is_freed"),
        [("bytes_per_second: 5000000", True), ("", True), ("RATE, associations: 4", False)],
    )
    def test_another_rate_ends_the_pause_for_the_sake_of_the_old_one(
        self, change: str, is_freed: bool
    ) -> None:
        """A rate that was a thousand times too low has made the next turn one of next month."""
        rate = "bytes_per_second: 5000"
        text = TEXT.replace("associations: 3", rate)
        apply(text)
        lane = Destination.objects.get(name="pacs").lane
        later = now() + timedelta(days=30)
        lane.paced_until = later
        lane.save()
        apply(text.replace(rate, change.replace("RATE", rate) or "associations: 3"))
        lane.refresh_from_db()
        assert lane.paced_until == (None if is_freed else later)

    def test_another_rule_leaves_a_stopped_lane_alone(self) -> None:
        apply(TEXT)
        lane = Destination.objects.get(name="pacs").lane
        lane.state = LaneState.STOPPED
        lane.save()
        apply(TEXT.replace("quiet: 90s", "quiet: 91s"))
        lane.refresh_from_db()
        assert lane.state == LaneState.STOPPED

    def test_removed_and_added_again_it_is_the_same_row_with_its_work_held(self) -> None:
        apply(TEXT)
        row = Destination.objects.get(name="pacs")
        item = self.item(ItemState.WAITING)
        apply(EMPTY)
        item.refresh_from_db()
        assert item.state == ItemState.HELD
        assert item.reason.startswith("pacs was removed in revision 3;")
        apply(TEXT)
        again = Destination.objects.select_related("version").get(name="pacs")
        assert again.version is not None
        assert (again.pk, again.removed, again.endpoint) == (row.pk, False, 1)
        assert again.version.number == 2
        item.refresh_from_db()
        assert item.state == ItemState.HELD
        assert JobItem.objects.release() == 1

    def test_added_again_at_another_address_it_is_another_endpoint(self) -> None:
        apply(TEXT)
        apply(EMPTY)
        apply(TEXT.replace("4242", "4243"))
        assert Destination.objects.get(name="pacs").endpoint == 2


@pytest.mark.django_db
class TestRevisions:
    def test_a_fresh_system_gets_revision_one_once(self) -> None:
        first = config.ensure_revision()
        assert (first.number, first.document) == (1, {"version": 1})
        assert config.ensure_revision() == first

    def test_export_wipe_import_gives_the_same_digest(self) -> None:
        first = apply(TEXT).revision
        text = config.export()
        apply(EMPTY)
        second = apply(text).revision
        assert first is not None
        assert second is not None
        assert first.number != second.number
        assert first.digest == second.digest

    def test_export_then_apply_is_no_change(self) -> None:
        apply(TEXT)
        assert apply(config.export()).changes == ()

    def test_rows_made_otherwise_are_exported_too(self) -> None:
        factories.destination("pacs")
        factories.rule("all", send=["pacs"])
        assert apply(config.export()).changes == ()

    def test_roll_back_applies_the_old_document_as_a_new_revision(self) -> None:
        first = apply(TEXT).revision
        assert first is not None
        apply(TEXT.replace('value: "0042"', 'value: "0043"'))
        back = config.roll_back(first.number, actor=ACTOR).revision
        assert back is not None
        assert (back.number, back.digest) == (4, first.digest)
        assert back.reason == "roll back to revision 2"
        when = Rule.objects.get().when
        assert when is not None
        assert when["not"]["value"] == "0042"

    def test_a_raised_grade_has_earlier_deliveries_enrolled(self) -> None:
        """A lowered one, another setting and a new destination do not."""
        for grade, enrols in (
            ("verified", False),
            ("committed", True),
            ("verified", False),
            ("accepted", False),
            ("verified", True),
        ):
            apply(TEXT.replace("ae_title: PACS,", f"ae_title: PACS, proof: {grade},"))
            lanes = Lane.objects.filter(destination__name="pacs", enrol_at__gt=now())
            assert lanes.exists() == enrols, grade
            Lane.objects.update(enrol_at=None)

    def test_changed_settings_have_it_asked_at_once(self) -> None:
        apply(TEXT)
        Lane.objects.update(proof_failures=3, proof_resume_at=now(), proof_reason="gone")
        apply(TEXT.replace("associations: 3", "associations: 2"))
        lane = Lane.objects.get(destination__name="pacs")
        assert (lane.proof_failures, lane.proof_resume_at, lane.proof_reason) == (0, None, "")

    def test_roll_back_to_nowhere_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="there is no revision 9"):
            config.roll_back(9, actor=ACTOR)


@pytest.mark.django_db(transaction=True)
class TestAfterCommit:
    def test_the_receiver_can_read_the_sources(self, data_folder: Path) -> None:
        apply(TEXT)
        text = (data_folder / config.SOURCES_FILE).read_text()
        found = parse(text)
        assert found.revision == 2
        assert [(one.name, one.ae_title, one.duplicates) for one in found.sources] == [
            ("ct", "CT1", "versions")
        ]
        assert json.loads(text)["sources"][0]["hosts"] == ["10.1.0.0/16"]

    def test_the_receiver_can_read_who_may_report(self, data_folder: Path) -> None:
        """Enabled `dicom` destinations, and nothing of the others."""
        more = (
            "  - {name: off, kind: dicom, host: h, port: 1, ae_title: OFF, enabled: false}\nrules:"
        )
        own = TEXT.replace("ae_title: PACS,", "ae_title: PACS, calling_ae: US,")
        apply(own.replace("rules:", more, 1))
        found = parse((data_folder / config.SOURCES_FILE).read_text())
        assert [(one.ae_title, one.host, one.calling_ae) for one in found.peers] == [
            ("PACS", "127.0.0.1", "US")
        ]

    def test_publishing_again_writes_only_what_is_new(self, data_folder: Path) -> None:
        assert config.publish_sources()
        assert not config.publish_sources()
        (data_folder / config.SOURCES_FILE).write_text("{")
        assert config.publish_sources()

    def test_what_cannot_be_published_is_said_and_the_revision_stands(
        self, data_folder: Path, settings: Settings
    ) -> None:
        settings.DATA_DIR = data_folder / "missing"
        with pytest.raises(config.PublishError):
            apply(TEXT)
        assert ConfigRevision.objects.count() == 2


@pytest.mark.django_db
class TestOvertaken:
    """Another process takes the number between our look at it and our insert."""

    @pytest.fixture
    def rivals(self) -> Iterator[list[int]]:
        """Insert a rival for each revision that is about to be, as many times as listed."""
        rivals: list[int] = []

        def intrude(instance: ConfigRevision, **_signal: object) -> None:
            if rivals and instance.number == rivals[0]:
                rivals.pop(0)
                ConfigRevision.objects.bulk_create(
                    [ConfigRevision(number=instance.number, created_at=now(), document={})]
                )

        signals.pre_save.connect(intrude, sender=ConfigRevision)
        yield rivals
        signals.pre_save.disconnect(intrude, sender=ConfigRevision)

    def test_starts_again_with_what_is_there_then(self, rivals: list[int]) -> None:
        rivals += [2, 2]
        applied = apply(TEXT)
        assert rivals == []
        assert applied.revision == ConfigRevision.objects.first()
        assert Source.objects.count() == 1

    def test_gives_up_in_the_end_and_changes_nothing(self, rivals: list[int]) -> None:
        rivals += [2] * 5
        with pytest.raises(config.ConfigBusyError):
            apply(TEXT)
        assert not Source.objects.exists()

    def test_the_first_revision_too(self, rivals: list[int]) -> None:
        rivals += [1]
        assert config.ensure_revision().number == 1


class TestAnyConfiguration(TestCase):
    """Whatever is right can be applied, exported and applied again without a change."""

    @hypothesis_settings(max_examples=15)
    @given(documents(), documents())
    def test_apply_export_apply(self, first: Document, second: Document) -> None:
        for document in (first, second):
            config.apply(document, actor=ACTOR)
            assert config.current() == document
            assert config.apply(schema.load(config.export()), actor=ACTOR).changes == ()
