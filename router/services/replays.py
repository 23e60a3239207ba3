"""What a person does with a replay: ask for it, confirm, pause, resume, cancel; each audited.

Nothing is sent before it is confirmed, by one who names the number of objects that the plan has.
The work itself is done by ``replay_planning`` and ``replay_release``.
"""

from dataclasses import dataclass
from datetime import timedelta

from django.conf import settings
from django.db import transaction

from router import doorbell
from router.models import (
    Destination,
    ItemState,
    JobItem,
    Replay,
    ReplayContent,
    ReplayOnly,
    ReplayRoute,
    ReplayState,
    Rule,
    User,
)
from router.models.jobs import JobItemQuerySet
from router.models.replays import ReplayQuerySet
from router.services import audit, clock
from router.services.actors import Actor
from router.services.replay_selection import MOST_JOBS, Selection
from router.services.visibility import sees_patients

PLAN_LASTS = timedelta(hours=24)
USUAL_RATE = 50.0
MOST_RATE = 100_000.0
_FAILED_STATES = ("", ItemState.PARKED.value, ItemState.CANCELLED.value)


class ReplayRefused(Exception):
    """It cannot be done; the text is a sentence that says why and what to do."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody wants to be sent once more. `rate` is in objects a second, 0 for any."""

    selection: Selection
    only: ReplayOnly
    route: ReplayRoute = ReplayRoute.THEN
    content: ReplayContent = ReplayContent.ORIGINAL
    rate: float = USUAL_RATE


def visible_replays(user: User) -> ReplayQuerySet:
    """Return the replays that a user may see: under a limit only those of their own."""
    return Replay.objects.filter(user=user) if user.limits() else Replay.objects.all()


def request(wish: Wish, *, actor: Actor, user: User | None) -> Replay:
    """Have a replay planned; nothing is sent.

    Args:
        wish: what is meant.
        actor: who asks.
        user: whose limit holds; None for the command line.

    Raises:
        ReplayRefused: it names nothing, or something that does not exist.
    """
    _check(wish, user)
    with transaction.atomic():
        replay = Replay.objects.create(
            user=user,
            created_by=actor.name[:150],
            created_at=clock.now(),
            selection=wish.selection.as_dict(),
            only=wish.only,
            route=wish.route,
            content=wish.content,
            rate=wish.rate,
        )
        doorbell.ring("plan_replay", replay.pk)
        _audit("replay.requested", replay, actor, **_described(wish))
    return replay


def _check(wish: Wish, user: User | None) -> None:
    selection = wish.selection
    if selection.is_empty:
        raise ReplayRefused("Say which studies are meant: at least one of the criteria is needed.")
    if not 0 <= wish.rate <= MOST_RATE:
        raise ReplayRefused(f"The rate is from 0 (any) to {MOST_RATE:,.0f} objects a second.")
    if len(selection.jobs) > MOST_JOBS:
        raise ReplayRefused(f"At most {MOST_JOBS:,} jobs can be named; choose by other criteria.")
    if selection.patient_id and user is not None and not sees_patients(user):
        raise ReplayRefused("Your role does not see patient IDs, so it cannot choose by one.")
    if selection.state and selection.state not in ItemState.values:
        raise ReplayRefused(f"{selection.state} is no state; one of the ledger's is expected.")
    if wish.only == ReplayOnly.FAILED and selection.state not in _FAILED_STATES:
        raise ReplayRefused("What failed is parked or cancelled: choose one of these states.")
    _check_names(selection)


def _check_names(selection: Selection) -> None:
    present = Destination.objects.present()
    if selection.destination and not present.filter(name=selection.destination).exists():
        raise ReplayRefused(f"No destination is called {selection.destination}.")
    if selection.rule and not (
        Rule.objects.filter(name=selection.rule).exists()
        or JobItem.objects.filter(job__rule=selection.rule).exists()
    ):
        raise ReplayRefused(f"No rule is, or was, called {selection.rule}.")
    if _is_turned(selection.study_date_from, selection.study_date_to) or _is_turned(
        selection.received_from, selection.received_to
    ):
        raise ReplayRefused("A range ends before it begins; exchange the two.")


def _is_turned(first: object, last: object) -> bool:
    return bool(first and last and first > last)  # type: ignore[operator] # both are of one type


def _described(wish: Wish) -> dict[str, object]:
    """What the audit log holds of a wish: everything but the patient's id."""
    chosen = wish.selection.as_dict()
    if "patient_id" in chosen:
        chosen["patient_id"] = "(given)"
    if "jobs" in chosen:
        chosen["jobs"] = len(wish.selection.jobs)
    return {
        "selection": chosen,
        "only": wish.only.value,
        "route": wish.route.value,
        "content": wish.content.value,
        "rate": wish.rate,
    }


def needs_typing(replay: Replay) -> bool:
    """Tell whether a replay is so large that the number of its studies is to be typed."""
    return replay.studies_count > settings.REPLAY_TYPED_ABOVE


def is_stale(replay: Replay) -> bool:
    """Tell whether a plan is too old to be confirmed."""
    made = replay.planned_at
    return made is not None and clock.now() - made > PLAN_LASTS


@transaction.atomic
def confirm(replay: Replay, *, objects: int, studies: int | None, actor: Actor) -> None:
    """Have a plan sent.

    Args:
        replay: it must be planned.
        objects: how many objects the one who confirms has seen in the plan.
        studies: how many studies was typed, where that is needed.
        actor: who confirms.

    Raises:
        ReplayRefused: it is not what was seen, or not as it was planned any more.
    """
    if replay.state != ReplayState.PLANNED:
        raise ReplayRefused(f"It is not waiting for a yes: {_word(replay)}.")
    if is_stale(replay):
        raise ReplayRefused("The plan is over a day old. Plan it again: much may have changed.")
    if objects != replay.objects_count:
        raise ReplayRefused(f"The plan has {replay.objects_count:,} objects, not {objects:,}.")
    if needs_typing(replay) and studies != replay.studies_count:
        raise ReplayRefused(
            f"More than {settings.REPLAY_TYPED_ABOVE:,} studies: type their number, "
            f"{replay.studies_count}, to confirm."
        )
    moved = _moved(replay)
    if moved:
        raise ReplayRefused(f"The address of {moved} has changed since. Plan it again.")
    mine = Replay.objects.filter(pk=replay.pk)
    if not mine.confirm(by=actor.name[:150], now=clock.now()):
        raise ReplayRefused("Somebody else was quicker; look at it again.")
    doorbell.ring("advance_replay", replay.pk)
    counts = {"studies": replay.studies_count, "objects": replay.objects_count}
    _audit("replay.confirmed", replay, actor, **counts, bytes=replay.bytes)


def _moved(replay: Replay) -> str:
    """Name a destination whose address is not that of the plan any more."""
    for row in Destination.objects.filter(pk__in=map(int, replay.endpoints)):
        if row.endpoint != replay.endpoints[str(row.pk)]:
            return row.name
    return ""


def _word(replay: Replay) -> str:
    return ReplayState(replay.state).label.lower()


@transaction.atomic
def pause(replay: Replay, *, actor: Actor) -> int:
    """Release nothing more, and hold what was released and is not being sent.

    Returns:
        How many released objects are held now.

    Raises:
        ReplayRefused: it does not run.
    """
    if not Replay.objects.filter(pk=replay.pk).pause(f"Paused by {actor.name}."):
        raise ReplayRefused(f"It does not run: {_word(_again(replay))}.")
    held = hold_released(replay)
    doorbell.ring("advance_replay", replay.pk)
    _audit("replay.paused", replay, actor, held=held)
    return held


def hold_released(replay: Replay) -> int:
    """Hold the items of a paused replay that are not being sent."""
    return released_items(replay).hold(pause_reason(replay))


def released_items(replay: Replay) -> JobItemQuerySet:
    """Return the items of a replay that were not yet seen to have ended."""
    released = replay.pairs.released().values("item")
    return JobItem.objects.filter(pk__in=released)


def pause_reason(replay: Replay) -> str:
    """Return by what an item is known that a pause holds."""
    return f"Replay {replay.pk} is paused."


@transaction.atomic
def resume(replay: Replay, *, actor: Actor) -> int:
    """Go on with a paused replay, to the addresses of today.

    Returns:
        How many objects that the pause held are due again.

    Raises:
        ReplayRefused: it is not paused.
    """
    mine = Replay.objects.filter(pk=replay.pk)
    if not mine.resume():
        raise ReplayRefused(f"It is not paused: {_word(_again(replay))}.")
    present = Destination.objects.filter(pk__in=map(int, replay.endpoints))
    mine.update(endpoints={str(row.pk): row.endpoint for row in present}, paced_until=None)
    mine_held = released_items(replay).filter(reason=pause_reason(replay))
    for pk in mine_held.order_by().values_list("destination", flat=True).distinct():
        doorbell.ring("deliver", pk, 0)
    due = mine_held.release()
    doorbell.ring("advance_replay", replay.pk)
    _audit("replay.resumed", replay, actor, due=due)
    return due


@transaction.atomic
def cancel(replay: Replay, *, actor: Actor) -> None:
    """Give up what was not sent; of a plan that was not confirmed, all of it.

    Raises:
        ReplayRefused: it is over already.
    """
    mine, reason = Replay.objects.filter(pk=replay.pk), f"Cancelled by {actor.name}."
    if not mine.cancel(reason) and not mine.discard(reason, now=clock.now()):
        raise ReplayRefused(f"There is nothing to cancel: {_word(_again(replay))}.")
    doorbell.ring("advance_replay", replay.pk)
    _audit("replay.cancelled", replay, actor)


def ring_due() -> None:
    """Ring for every replay that is to be planned or advanced; discard the plans grown old."""
    for pk in Replay.objects.to_plan().order_by("id").values_list("pk", flat=True):
        doorbell.ring("plan_replay", pk)
    for pk in Replay.objects.to_advance().order_by("id").values_list("pk", flat=True):
        doorbell.ring("advance_replay", pk)
    discard_stale()


def discard_stale() -> int:
    """Discard the plans that nobody confirmed within a day of a grace; return how many."""
    now = clock.now()
    old = Replay.objects.filter(state=ReplayState.PLANNED, planned_at__lt=now - 2 * PLAN_LASTS)
    return old.discard("Nobody confirmed it.", now=now) if old.exists() else 0


def _again(replay: Replay) -> Replay:
    return Replay.objects.get(pk=replay.pk)


def _audit(event: str, replay: Replay, actor: Actor, **details: object) -> None:
    audit.record(
        event,
        actor=actor,
        code="instances.transferred",
        target=f"replay {replay.pk}",
        details=dict(details),
    )
