"""The rows of the newest configuration: read as a document, and made equal to one.

Runs inside the transaction of `services.config.apply`. It never decides whether a configuration is
right, and never deletes a destination: the ledger refers to it.
"""

from collections.abc import Callable, Iterable

from django.db.models import Q

from router import doorbell
from router.config import document, settings
from router.config.document import Document
from router.config.findings import ConfigError, Finding
from router.config.plan import Change
from router.destinations import grades
from router.models import (
    ConfigRevision,
    Destination,
    DestinationGroup,
    DestinationVersion,
    JobItem,
    Lane,
    LaneState,
    Role,
    RoutingDefaults,
    Rule,
    Source,
    User,
)
from router.models.jobs import JobItemQuerySet
from router.services import audit, lanes, pacing, proofs, secrets
from router.services.actors import Actor


def read() -> Document:
    """Return the configuration that the rows say now."""
    return Document(
        _defaults(RoutingDefaults.objects.filter(pk=1).first()),
        tuple(_source(row) for row in Source.objects.all()),
        tuple(_destination(row) for row in Destination.objects.present().select_related("version")),
        tuple(_group(row) for row in DestinationGroup.objects.present()),
        tuple(_rule(row) for row in Rule.objects.all()),
        tuple(_role(row) for row in _own_roles()),
    ).ordered()


def check(changes: Iterable[Change]) -> None:
    """Refuse what the rows forbid.

    Raises:
        ConfigError: a role that users still have would go, or a secret that is not stored is named.
    """
    changes = tuple(changes)
    gone = [change.name for change in changes if change.kind == "role" and change.action == "-"]
    findings = []
    for name in gone:
        count = User.objects.filter(role__name=name).count()
        if count:
            message = f"the role '{name}' is still that of {count} users; give them another first"
            findings.append(Finding(0, "roles", message))
    findings += _unstored(changes)
    if findings:
        raise ConfigError(findings)


def _unstored(changes: Iterable[Change]) -> Iterable[Finding]:
    """Yield a finding for each name of a stored secret behind which there is none."""
    named = {
        str(field.new): f"destinations.{change.name}.{field.name}"
        for change in changes
        for field in change.fields
        if change.kind == "destination" and field.name.endswith(secrets.SUFFIX) and field.new
    }
    for name in sorted(secrets.missing(named)):
        message = f"no secret '{name}' is stored; store it in the console first"
        yield Finding(0, named[name], message)


def write(
    wanted: Document, changes: Iterable[Change], *, revision: ConfigRevision, actor: Actor
) -> None:
    """Carry out `changes`, which lead to `wanted`."""
    objects: dict[str, dict[str, object]] = {
        "source": {one.name: one for one in wanted.sources},
        "destination": {one.name: one for one in wanted.destinations},
        "group": {one.name: one for one in wanted.groups},
        "rule": {one.name: one for one in wanted.rules},
        "role": {one.name: one for one in wanted.roles},
        "defaults": {"": wanted.defaults},
    }
    # Groups first: what they send elsewhere is not held where a destination is removed.
    for change in sorted(changes, key=lambda change: change.kind != "group"):
        one = objects[change.kind].get(change.name)
        if one is None:
            _REMOVE[change.kind](change.name, revision, actor)
        elif isinstance(one, document.Destination):
            _put_destination(one, revision=revision, actor=actor)
        else:
            _put(one)


def _own_roles() -> Iterable[Role]:
    return Role.objects.filter(built_in=False).exclude(name__in=document.BUILT_IN_ROLES)


# --- rows → values -------------------------------------------------------------------------------
def _defaults(row: RoutingDefaults | None) -> document.Defaults:
    if row is None:
        return document.Defaults()
    return document.Defaults(row.unmatched, row.quiet_seconds, row.quiet_cap_seconds)


def _source(row: Source) -> document.Source:
    return document.Source(
        name=row.name,
        ae_title=row.ae_title,
        enabled=row.enabled,
        hosts=tuple(row.hosts),
        services=tuple(one for one in document.SERVICES if one in row.services)
        or document.DEFAULT_SERVICES,
        duplicates=row.duplicates,
    )


def _destination(row: Destination) -> document.Destination:
    stored = row.version.settings if row.version else {}
    return document.Destination(
        row.name, row.kind, row.enabled, settings.canonical(row.kind, stored)
    )


def _group(row: DestinationGroup) -> document.Group:
    return document.Group(
        name=row.name,
        kind=row.kind,
        members=tuple(row.members),
        enabled=row.enabled,
        by=row.by,
        returns=row.returns,
        patience=row.patience_seconds,
    )


def _rule(row: Rule) -> document.Rule:
    return document.Rule(
        name=row.name,
        send=tuple(row.send),
        enabled=row.enabled,
        priority=row.priority,
        state=row.state,
        when=row.when,
        on=row.trigger,
        quiet=row.quiet_seconds,
        transform=row.transform,
        urgency=row.urgency,
        stop=row.stop,
    )


def _role(row: Role) -> document.Role:
    limit = {key: tuple(row.limit[key]) for key in document.LIMIT_KEYS if key in row.limit}
    return document.Role(row.name, tuple(sorted(row.permissions)), row.can_sign_in, limit)


# --- values → rows -------------------------------------------------------------------------------
def _put(one: object) -> None:
    if isinstance(one, document.Source):
        _put_source(one)
    elif isinstance(one, document.Group):
        _put_group(one)
    elif isinstance(one, document.Rule):
        _put_rule(one)
    elif isinstance(one, document.Role):
        _put_role(one)
    elif isinstance(one, document.Defaults):
        RoutingDefaults.objects.update_or_create(
            pk=1,
            defaults={
                "unmatched": one.unmatched,
                "quiet_seconds": one.quiet,
                "quiet_cap_seconds": one.quiet_cap,
            },
        )


def _put_source(one: document.Source) -> None:
    Source.objects.update_or_create(
        name=one.name,
        defaults={
            "enabled": one.enabled,
            "ae_title": one.ae_title,
            "hosts": list(one.hosts),
            "services": list(one.services),
            "duplicates": one.duplicates,
        },
    )


def _put_group(one: document.Group) -> None:
    """Add, revive or change a group; it remembers who was a member, whose studies are to leave."""
    row, _is_new = DestinationGroup.objects.get_or_create(name=one.name)
    former = {*row.former, *row.members} - {*one.members}
    row.kind, row.members, row.former = one.kind, list(one.members), sorted(former)
    row.by, row.returns, row.patience_seconds = one.by, one.returns, one.patience
    row.enabled, row.removed = one.enabled, False
    row.save()


def _put_rule(one: document.Rule) -> None:
    Rule.objects.update_or_create(
        name=one.name,
        defaults={
            "enabled": one.enabled,
            "priority": one.priority,
            "state": one.state,
            "when": one.when,
            "trigger": one.on,
            "quiet_seconds": one.quiet,
            "send": list(one.send),
            "transform": one.transform,
            "urgency": one.urgency,
            "stop": one.stop,
        },
    )


def _put_role(one: document.Role) -> None:
    """A disabled role of the customer's own is one that cannot sign in (`Role.is_disabled`)."""
    Role.objects.update_or_create(
        name=one.name,
        defaults={
            "permissions": list(one.permissions),
            "limit": {key: list(values) for key, values in one.limit.items()},
            "can_sign_in": one.enabled,
        },
    )


def _put_destination(one: document.Destination, *, revision: ConfigRevision, actor: Actor) -> None:
    """Add, revive or change a destination; another address holds its open items (R21)."""
    row, is_new = Destination.objects.select_related("version").get_or_create(
        name=one.name, defaults={"kind": one.kind, "enabled": one.enabled}
    )
    before = _destination(row)
    moved = not is_new and _address(before) != _address(one)
    changed = is_new or (before.kind, before.settings) != (one.kind, one.settings)
    revived = row.removed
    row.kind, row.enabled, row.removed = one.kind, one.enabled, False
    row.endpoint += int(moved)
    if changed or revived:
        row.version = _next_version(row, one, revision)
    row.save(update_fields=["kind", "enabled", "removed", "endpoint", "version"])
    if moved:
        reason = (
            f"The address of {one.name} was changed in revision {revision.number}; "
            "release to send there."
        )
        items = JobItem.objects.filter(destination=row)
        _hold(row, items, reason=reason, revision=revision, actor=actor)
    _open_lane(row, again=changed or revived)
    if pacing.limits(before.settings) != pacing.limits(one.settings):
        pacing.forget(row)
    if not is_new and _rank(one) > _rank(before):
        proofs.raised(row)


def _rank(one: document.Destination) -> int:
    return grades.GRADES.index(grades.required(one.settings))


def _address(one: document.Destination) -> tuple[object, ...]:
    return settings.address(one.kind, one.settings)


def _next_version(
    row: Destination, one: document.Destination, revision: ConfigRevision
) -> DestinationVersion:
    last = row.versions.order_by("-number").values_list("number", flat=True).first()
    return DestinationVersion.objects.create(
        destination=row,
        number=(last or 0) + 1,
        endpoint=row.endpoint,
        settings=dict(one.settings),
        revision=revision,
        created_at=revision.created_at,
    )


def _hold(
    row: Destination,
    items: JobItemQuerySet,
    *,
    reason: str,
    revision: ConfigRevision,
    actor: Actor,
) -> None:
    count = items.hold(reason)
    if count:
        audit.record(
            "items.held",
            actor=actor,
            code="instances.transferred",
            target=f"destination {row.name}",
            details={"count": count, "revision": revision.number, "reason": reason},
        )


def _open_lane(row: Destination, *, again: bool) -> None:
    """Have the lane there; after a change of settings, open it unless a person paused it."""
    Lane.objects.get_or_create(destination=row)
    if again:
        Lane.objects.filter(
            destination=row, state__in=[LaneState.STOPPED, LaneState.BACKOFF]
        ).update(**lanes.OPENED)
        Lane.objects.filter(destination=row).update(
            proof_failures=0, proof_resume_at=None, proof_reason=""
        )
    if row.enabled:
        doorbell.ring("deliver", row.pk, 0)


def _remove_destination(name: str, revision: ConfigRevision, actor: Actor) -> None:
    row = Destination.objects.get(name=name)
    row.removed = True
    row.save(update_fields=["removed"])
    reason = f"{name} was removed in revision {revision.number}; add it again and release to send."
    leaving = Q(job__assignment__group__removed=False, job__assignment__group__enabled=True)
    items = JobItem.objects.filter(destination=row).exclude(leaving)  # those go to another member
    _hold(row, items, reason=reason, revision=revision, actor=actor)


def _remove_source(name: str, _revision: ConfigRevision, _actor: Actor) -> None:
    Source.objects.filter(name=name).delete()


def _remove_group(name: str, _revision: ConfigRevision, _actor: Actor) -> None:
    """What is open stays where it is: nobody sends it elsewhere any more."""
    DestinationGroup.objects.filter(name=name).update(removed=True)


def _remove_rule(name: str, _revision: ConfigRevision, _actor: Actor) -> None:
    Rule.objects.filter(name=name).delete()


def _remove_role(name: str, _revision: ConfigRevision, _actor: Actor) -> None:
    Role.objects.filter(name=name, built_in=False).delete()


_REMOVE: dict[str, Callable[[str, ConfigRevision, Actor], None]] = {
    "source": _remove_source,
    "destination": _remove_destination,
    "group": _remove_group,
    "rule": _remove_rule,
    "role": _remove_role,
}
