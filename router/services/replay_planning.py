"""Plan a replay: find its pairs, ask far ends what they have, write what is to be sent and why not.

One step is one chunk: the far end is asked before the transaction, which writes the pairs and moves
the cursor on where it still stands; two planners at once cannot both commit, and one that dies
leaves the next to go on. Refuses to send.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from django.db import transaction
from django.db.models import Count, F, Q, Sum

from router import stopping
from router.destinations.base import Confirmation
from router.models import (
    Destination,
    PairState,
    Replay,
    ReplayOnly,
    ReplayPair,
    ReplayRoute,
    ReplayState,
)
from router.models.batches import Insert, Row
from router.models.studies import StudyQuerySet
from router.services import audit, clock, far_end, replay_candidates, turns
from router.services.actors import SYSTEM
from router.services.replay_candidates import Candidate, Stored
from router.services.replay_selection import Selection

log = logging.getLogger(__name__)

PLANNERS = 2
"""So many workers plan at a time; the others deliver."""
STUDIES = 100
CHUNK = 500
MOST_STRIKES = 3
"""A far end that answered for nothing of so many chunks in a row is not asked any more."""
MOST_TRIES = 5
LONGEST_DETAIL = 300

_PAIRS = Insert(
    ReplayPair,
    *("replay_id", "destination_id", "study_id", "instance_id", "transform", "rule", "size"),
    *("state", "detail"),
)
_ANSWERED = {
    "present": PairState.THERE,
    "absent": PairState.PLANNED,
    "different": PairState.DIFFERENT,
    "unknown": PairState.UNKNOWN,
}
_SILENT = "The destination did not answer for the objects before it, so it was not asked for more."
_TRANSFORMED = "What leaves under a transform has other UIDs; the far end cannot be asked for it."


class NotWritten(Exception):
    """Another planner was quicker, or this is not the time; nothing was written."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Objects in the order of their studies, and where the next chunk begins."""

    objects: tuple[Stored, ...]
    study: int
    instance: int
    studies_done: int
    is_last: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a candidate, and why."""

    candidate: Candidate
    state: PairState
    detail: str = ""


def run(pk: int, *, seconds: float) -> None:
    """Plan a replay for so long at most; one process at a time does."""
    limit = time.monotonic() + seconds
    with turns.turn(f"plan-replay-{pk % PLANNERS}") as is_mine:
        while is_mine and time.monotonic() < limit and not stopping.requested():
            try:
                if not step(pk):
                    return
            except NotWritten:
                return


def step(pk: int) -> bool:
    """Plan the next chunk of a replay.

    Returns:
        Whether there is more to plan.

    Raises:
        NotWritten: call again, later.
    """
    replay = Replay.objects.to_plan().select_related("user__role").filter(pk=pk).first()
    if replay is None:
        return False
    if replay.tries >= MOST_TRIES:
        _give_up(replay)
        return False
    mine = Replay.objects.filter(pk=pk)
    mine.update(tries=F("tries") + 1)  # so that a chunk which kills its planner ends this
    try:
        return _plan(replay)
    except NotWritten:
        mine.filter(tries__gt=0).update(tries=F("tries") - 1)
        raise


def _give_up(replay: Replay) -> None:
    log.error("replay.not_planned", extra={"replay": replay.pk})
    reason = f"Planning failed {MOST_TRIES} times; the worker's log says why. Plan it again."
    Replay.objects.to_plan().filter(pk=replay.pk).update(
        state=ReplayState.FAILED, reason=reason, finished_at=clock.now()
    )


def _plan(replay: Replay) -> bool:
    selection = Selection.from_dict(replay.selection)
    studies = selection.studies(replay.user, as_chosen=replay.route == ReplayRoute.THEN)
    if replay.studies_total is None:
        Replay.objects.filter(pk=replay.pk).update(studies_total=studies.count())
    chunk = _next(replay, selection, studies)
    try:
        candidates, unread = replay_candidates.find(replay, selection, chunk.objects)
    except OSError as error:
        raise NotWritten from error
    questions = _Questions(replay, candidates)
    verdicts = [questions.verdict(one) for one in candidates]
    if stopping.requested():
        raise NotWritten  # what was not asked for our sake is no answer of the far end's
    _write(replay, chunk, verdicts, unread=unread, strikes=questions.strikes)
    return not chunk.is_last


def _next(replay: Replay, selection: Selection, studies: StudyQuerySet) -> Chunk:
    first, after = replay.cursor_study, replay.cursor_instance
    ids = list(studies.filter(pk__gte=first).order_by("pk").values_list("pk", flat=True)[:STUDIES])
    beyond = Q(study_id__gt=first) | Q(study_id=first, pk__gt=after)
    rows = selection.instances(replay.user).filter(beyond, study__in=ids).order_by("study_id", "pk")
    found = tuple(Stored(*row) for row in rows.values_list("pk", "study_id", "size")[:CHUNK])
    if len(found) == CHUNK:
        last = found[-1]
        done = sum(pk < last.study_id for pk in ids)
        return Chunk(found, last.study_id, last.pk, done, is_last=False)
    following = ids[-1] + 1 if ids else first
    return Chunk(found, following, 0, len(ids), is_last=len(ids) < STUDIES)


class _Questions:
    """What becomes of the candidates of one chunk; asks each far end once, where it is to be."""

    def __init__(self, replay: Replay, candidates: Sequence[Candidate]) -> None:
        self.strikes: dict[str, int] = dict(replay.strikes)
        rows = Destination.objects.select_related("version")
        self._destinations = rows.in_bulk({one.destination for one in candidates})
        self._asks = replay.only == ReplayOnly.MISSING
        self._answers: Mapping[int, Mapping[int, Confirmation]] = {}
        if self._asks:
            self._answers = {pk: self._ask(pk, candidates) for pk in self._destinations}

    def _ask(self, pk: int, candidates: Sequence[Candidate]) -> Mapping[int, Confirmation]:
        destination = self._destinations[pk]
        mine = [one for one in candidates if one.destination == pk and not self._settled(one)]
        objects = sorted({one.stored.pk for one in mine if not one.transform})
        silent = self.strikes.get(str(pk), 0)
        if not objects or silent >= MOST_STRIKES:
            return {}
        answers = far_end.ask(destination, objects)
        answered = any(one.state != "unknown" for one in answers.values())
        self.strikes[str(pk)] = 0 if answered else silent + 1
        return answers

    def verdict(self, candidate: Candidate) -> Verdict:
        """Return what becomes of a candidate."""
        settled = self._settled(candidate)
        if settled is not None:
            return settled
        if not self._asks:
            return Verdict(candidate, PairState.PLANNED)
        if candidate.transform:
            return Verdict(candidate, PairState.UNKNOWN, _TRANSFORMED)
        answer = self._answers[candidate.destination].get(candidate.stored.pk)
        if answer is None:
            return Verdict(candidate, PairState.UNKNOWN, _SILENT)
        return Verdict(candidate, _ANSWERED[answer.state], answer.detail)

    def _settled(self, candidate: Candidate) -> Verdict | None:
        """Return what the ledger alone says."""
        destination = self._destinations[candidate.destination]
        if destination.removed:
            detail = f"{destination.name} is not part of the configuration any more."
            return Verdict(candidate, PairState.GONE, detail)
        if candidate.now.is_on_way:
            return Verdict(candidate, PairState.ON_WAY, "A job that is under way sends it.")
        if candidate.now.is_held:
            detail = "It is held there: release or cancel it in Jobs first."
            return Verdict(candidate, PairState.ON_HOLD, detail)
        return None


@transaction.atomic
def _write(
    replay: Replay,
    chunk: Chunk,
    verdicts: Sequence[Verdict],
    *,
    unread: int,
    strikes: Mapping[str, int],
) -> None:
    """Write the pairs of a chunk where the cursor still stands, and the plan with the last one.

    Raises:
        NotWritten: it has moved on.
    """
    here = Replay.objects.to_plan().filter(
        pk=replay.pk, cursor_study=replay.cursor_study, cursor_instance=replay.cursor_instance
    )
    moved = here.update(
        cursor_study=chunk.study,
        cursor_instance=chunk.instance,
        studies_seen=F("studies_seen") + chunk.studies_done,
        unread_count=F("unread_count") + unread,
        strikes=dict(strikes),
        tries=0,
    )
    if not moved:
        raise NotWritten
    _PAIRS.write(_row(replay, one) for one in verdicts)
    if chunk.is_last:
        _finish(replay)


def _row(replay: Replay, verdict: Verdict) -> Row:
    one = verdict.candidate
    return (
        *(replay.pk, one.destination, one.stored.study_id, one.stored.pk, one.transform, one.rule),
        *(one.stored.size, verdict.state.value, verdict.detail[:LONGEST_DETAIL]),
    )


def _finish(replay: Replay) -> None:
    """Sum the plan up; where nothing is to be sent it is done."""
    planned = ReplayPair.objects.planned().filter(replay=replay)
    sums = planned.aggregate(
        number=Count("pk"), studies=Count("study", distinct=True), total=Sum("size")
    )
    rows = planned.order_by().values_list("destination", "destination__endpoint").distinct()
    now = clock.now()
    Replay.objects.to_plan().filter(pk=replay.pk).update(
        state=ReplayState.PLANNED if sums["number"] else ReplayState.DONE,
        planned_at=now,
        finished_at=None if sums["number"] else now,
        studies_count=sums["studies"],
        objects_count=sums["number"],
        bytes=sums["total"] or 0,
        endpoints={str(pk): endpoint for pk, endpoint in rows},
    )
    audit.record(
        "replay.planned",
        actor=SYSTEM,
        code="instances.transferred",
        target=f"replay {replay.pk}",
        details={"studies": sums["studies"], "objects": sums["number"]},
    )
