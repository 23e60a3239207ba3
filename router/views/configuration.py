"""The configuration as it stands and as it was: rules, destinations, sources, revisions; read only.

Changing it is done with ``apply_config``, a destination in ``destination_editor``. Secrets are
never shown, only the names they go by.
"""

import difflib
import json
from dataclasses import dataclass
from itertools import zip_longest

import yaml
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST, require_safe

from router.destinations import KINDS
from router.dicom.errors import RuleError
from router.dicom.rules import describe, parse_condition
from router.models import (
    ConfigRevision,
    Destination,
    DestinationVersion,
    Permission,
    RoutingDefaults,
    Rule,
    Source,
)
from router.services import (
    access,
    group_story,
    jobs,
    lane_story,
    lanes,
    members,
    overview,
    proof_story,
    trials,
)
from router.services.access import requires
from router.views.listing import page, private, shown

SECRET_WORDS = ("password", "secret", "key", "token")
SECRET_WAYS = ("_env", "_file", "_stored")
"""What ends in one of these only names a secret."""
HIDDEN = "(hidden)"


MOST_VERSIONS = 20


@dataclass(frozen=True)
class VersionRow:
    """A version of a destination: key, before and after of each setting that it changed."""

    row: DestinationVersion
    changes: list[tuple[str, str, str]]
    is_first: bool


@dataclass(frozen=True)
class RuleRow:
    """A rule with its condition in words."""

    rule: Rule
    when: str


@requires(Permission.SEE_CONFIG)
@require_safe
def rules(request: HttpRequest) -> HttpResponse:
    """List the rules in the order they are tried."""
    rows = [RuleRow(rule, _in_words(rule)) for rule in Rule.objects.order_by("priority", "name")]
    context = {"rules": rows, "defaults": RoutingDefaults.objects.first() or RoutingDefaults()}
    return private(render(request, "config/rules.html", context))


def _in_words(rule: Rule) -> str:
    if rule.when is None:
        return "every instance"
    try:
        return describe(parse_condition(rule.when, (rule.name, "when")))
    except RuleError as error:
        return f"Cannot be read: {error}"


@requires(Permission.SEE_CONFIG)
@require_safe
def destinations(request: HttpRequest) -> HttpResponse:
    """List the destinations with their lanes, and the groups with their members."""
    user = access.person(request)
    context = {"destinations": overview.destinations(user), "groups": group_story.groups(user)}
    return shown(request, "config/destinations.html", "config/_destinations.html", context)


@requires(Permission.SEE_CONFIG)
@require_safe
def destination(request: HttpRequest, name: str) -> HttpResponse:
    """Show one destination: lane, backlog, settings."""
    return private(render(request, "config/destination.html", _destination(request, name)))


def _destination(request: HttpRequest, name: str) -> dict[str, object]:
    row = get_object_or_404(
        Destination.objects.present().select_related("version", "lane"), name=name
    )
    figures = overview.destinations(access.person(request))
    settings = row.version.settings if row.version else {}
    kind = KINDS.get(row.kind)
    names = {name} | members.groups_with(name)
    return {
        "destination": row,
        "figures": next(one for one in figures if one.name == name),
        "kind": kind.label if kind else row.kind,
        "settings": [(key, _shown(key, value)) for key, value in settings.items()],
        "rules": [rule for rule in Rule.objects.order_by("priority") if names & {*rule.send}],
        "groups": sorted(names - {name}),
        "story": lane_story.read(access.person(request), row),
        "versions": _versions(row),
        "opens_at": lanes.opens_at(row),
        "proof": proof_story.of_destination(access.person(request), row),
        "can_send_tests": trials.can_send_tests(row.kind),
        "can_rehearse": trials.can_rehearse(row.kind),
    }


def _versions(row: Destination) -> list[VersionRow]:
    """Return the newest versions, each with what it changed against the one before."""
    newest = list(row.versions.order_by("-number")[: MOST_VERSIONS + 1])
    pairs = zip_longest(newest, newest[1:])
    found = [VersionRow(one, _changes(before, one), before is None) for one, before in pairs if one]
    return found[:MOST_VERSIONS]


def _changes(
    before: DestinationVersion | None, row: DestinationVersion
) -> list[tuple[str, str, str]]:
    if before is None:
        return []
    old, new = before.settings, row.settings
    return [
        (key, _shown(key, old.get(key, "")) or "(none)", _shown(key, new.get(key, "")) or "(none)")
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]


def _shown(key: str, value: object) -> str:
    hidden = any(word in key for word in SECRET_WORDS) and not key.endswith(SECRET_WAYS)
    if hidden:
        return HIDDEN
    return value if isinstance(value, str) else json.dumps(value)


@requires(Permission.PAUSE)
@require_POST
def verify(request: HttpRequest, name: str) -> HttpResponse:
    """Try the destination, with a test object when asked for one, and show each step."""
    context = _destination(request, name)
    with_object = request.POST.get("test_object") == "1"
    try:
        context["verification"] = trials.verify(
            _present(name), actor=access.actor(request), with_object=with_object
        )
    except trials.CannotTry as error:
        context["refusal"] = str(error)
    return shown(request, "config/destination.html", "config/_verification.html", context)


@requires(Permission.PAUSE)
@require_POST
def rehearse(request: HttpRequest, name: str) -> HttpResponse:
    """Ask the destination what it would take of what was seen lately; nothing is sent."""
    context = _destination(request, name)
    try:
        context["rehearsal"] = trials.rehearse(
            _present(name), actor=access.actor(request), rule=request.POST.get("rule", "")
        )
    except trials.CannotTry as error:
        context["refusal"] = str(error)
    return shown(request, "config/destination.html", "config/_verification.html", context)


def _present(name: str) -> Destination:
    return get_object_or_404(Destination.objects.present().select_related("version"), name=name)


@requires(Permission.PAUSE)
@require_POST
def resume(request: HttpRequest, name: str) -> HttpResponse:
    """Open a lane that is stopped, paused or waiting."""
    row = get_object_or_404(Destination.objects.present(), name=name)
    if jobs.resume_lane(row, actor=access.actor(request)):
        messages.success(request, f"{name} is open again. Waiting objects are sent now.")
    else:
        messages.warning(request, f"Nothing was changed: {name} was open already.")
    return redirect(f"/destinations/{name}/")


@requires(Permission.PAUSE)
@require_POST
def pause(request: HttpRequest, name: str) -> HttpResponse:
    """Stop a destination from taking work."""
    row = get_object_or_404(Destination.objects.present(), name=name)
    if jobs.pause_lane(row, actor=access.actor(request)):
        messages.success(request, f"{name} is paused. Objects for it wait until it is resumed.")
    else:
        messages.warning(request, f"Nothing was changed: {name} was paused already.")
    return redirect(f"/destinations/{name}/")


@requires(Permission.PAUSE)
@require_POST
def drain(request: HttpRequest, name: str) -> HttpResponse:
    """Have a destination finish what is open and take nothing new."""
    row = get_object_or_404(Destination.objects.present(), name=name)
    if jobs.drain_lane(row, actor=access.actor(request)):
        messages.success(request, f"{name} is drained: it sends what is open and takes no more.")
    else:
        messages.warning(request, f"Nothing was changed: {name} is drained or stands already.")
    return redirect(f"/destinations/{name}/")


@requires(Permission.SEE_CONFIG)
@require_safe
def sources(request: HttpRequest) -> HttpResponse:
    """List the peers that may speak to us."""
    context = {"sources": Source.objects.order_by("name")}
    return private(render(request, "config/sources.html", context))


@requires(Permission.SEE_CONFIG)
@require_safe
def revisions(request: HttpRequest) -> HttpResponse:
    """List the configurations that were applied."""
    cut = page(ConfigRevision.objects.all(), request, sorts={"number": "number"}, default="-number")
    return shown(request, "config/revisions.html", "config/_revisions.html", {"listing": cut})


@requires(Permission.SEE_CONFIG)
@require_safe
def revision(request: HttpRequest, number: int) -> HttpResponse:
    """Show what one revision changed against the one before."""
    row = get_object_or_404(ConfigRevision, number=number)
    before = ConfigRevision.objects.filter(number__lt=number).order_by("-number").first()
    context = {"revision": row, "before": before, "diff": _difference(before, row)}
    return private(render(request, "config/revision.html", context))


def _difference(before: ConfigRevision | None, row: ConfigRevision) -> list[tuple[str, str]]:
    old = _as_yaml(before.document) if before else []
    lines = difflib.unified_diff(old, _as_yaml(row.document), n=3, lineterm="")
    return [(_kind_of(line), line) for line in list(lines)[2:]]


def _as_yaml(document: object) -> list[str]:
    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    return text.splitlines()


def _kind_of(line: str) -> str:
    return {"+": "add", "-": "remove", "@": "hunk"}.get(line[:1], "same")
