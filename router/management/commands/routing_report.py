"""``manage.py routing_report``: why a study went where it went, and why not elsewhere."""

import json
from argparse import ArgumentParser
from collections.abc import Iterator
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.core.serializers.json import DjangoJSONEncoder

from router.services import archive, report


class Command(BaseCommand):
    """Print the way of a study."""

    help = "Says why a study went where it went, and why not elsewhere."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the study and the form."""
        parser.add_argument("study", metavar="UID|ACCESSION")
        parser.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *_args: Any, **options: Any) -> None:  # Any: Django's signature
        """Print one report a study found."""
        archive.settled()
        studies = report.find(options["study"])
        if not studies:
            raise CommandError("No study has this UID or accession number.", returncode=1)
        reports = [report.of_study(study) for study in studies]
        if options["json"]:
            values = [item.as_dict() for item in reports]
            self.stdout.write(json.dumps(values, cls=DjangoJSONEncoder, indent=2))
            return
        for item in reports:
            for line in lines(item):
                self.stdout.write(line)


def lines(item: report.StudyReport) -> Iterator[str]:
    """Yield the readable form of a report."""
    yield f"Study {item.study_instance_uid}"
    yield (
        f"  {item.instances} instances in {item.series} series, {item.quarantined} quarantined, "
        f"{item.versions} further versions"
    )
    yield "Received"
    for row in item.received:
        yield (
            f"  {row.objects} objects by {row.origin} from {row.calling_ae} at "
            f"{row.remote_host or 'this machine'}, last {row.last_at:%Y-%m-%d %H:%M:%S} UTC "
            f"({row.duplicates} identical duplicates, {row.quarantined} quarantined)"
        )
    yield "Decided"
    for decided in item.decided:
        yield from _decided(decided)
    for sentence in item.waiting:
        yield f"  {sentence}"
    for given in item.groups:
        yield f"  {given.group}: {given.member} has the study: {given.reason}"
        for earlier in given.before:
            yield f"    before: {earlier['member']}, {earlier['reason']}"
    yield "Sent"
    for sent in item.sent:
        states = ", ".join(f"{count} {state.lower()}" for state, count in sent.states.items())
        yield f"  {sent.destination}: {states} ({sent.attempts} attempts)"
        for reason in sent.reasons:
            yield f"    {reason}"
    for absent in item.not_sent:
        yield f"  {absent.destination}: not sent"
        for sentence in absent.because:
            yield f"    {sentence}"


def _decided(decided: report.Decided) -> Iterator[str]:
    yield (
        f"  {decided.instances} instances, {decided.phase.lower()}, revision "
        f"{decided.revision}: {decided.outcome_label}"
    )
    for name, rule in decided.destinations.items():
        yield f"    to {name} because of rule {rule}"
    for group, facts in decided.groups.items():
        yield f"    for {group} {facts['member']}: {facts['why']}"
    for line in decided.rules:
        yield f"    {line.rule}: {line.sentence}"
    if decided.problem:
        yield f"    {decided.problem}"
