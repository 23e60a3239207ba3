"""``manage.py replay …``: plan what is to be sent once more, and with ``--yes`` have it sent.

Planning is done here and asks the far end where that is wanted; sending is the workers' work.
"""

import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from router.management import shell
from router.models import (
    ItemState,
    Replay,
    ReplayContent,
    ReplayOnly,
    ReplayRoute,
    ReplayState,
)
from router.services import replay_planning, replay_report, replays
from router.services.replay_report import Figures
from router.services.replay_selection import Selection
from router.services.replays import ReplayRefused, Wish
from router.templatetags.console import objects, size, span, studies

# Any in this module: parsed arguments, whose types the parser has checked.

LOOK_SECONDS = 0.5
OVER = (ReplayState.DONE, ReplayState.CANCELLED, ReplayState.DISCARDED, ReplayState.FAILED)
ACTS = ("confirm", "pause", "resume", "cancel", "show", "report")


class Command(BaseCommand):
    """Send studies once more."""

    help = (
        "Plans which stored studies are sent once more, prints studies, objects and bytes, and "
        "sends them with --yes. Exit 0 done, 1 refused or something failed, 2 usage."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the selection, the way, and what to do with a replay that is there."""
        _add_selection(parser)
        way = parser.add_argument_group("how")
        way.add_argument("--only", choices=ReplayOnly.values, help="what of it is sent")
        way.add_argument("--route", choices=ReplayRoute.values, default=ReplayRoute.THEN)
        way.add_argument("--content", choices=ReplayContent.values, default=ReplayContent.ORIGINAL)
        way.add_argument("--rate", type=float, default=replays.USUAL_RATE, metavar="N",
                         help=f"objects a second, 0 for any ({replays.USUAL_RATE:g})")  # fmt: skip
        way.add_argument("--yes", action="store_true", help="send what was planned")
        way.add_argument("--studies", type=int, metavar="N",
                         help="with --yes: their number, where they are many")  # fmt: skip
        way.add_argument("--wait", action="store_true", help="return when it is over")
        way.add_argument("--timeout", type=float, metavar="S", help="with --wait: seconds at most")
        acts = parser.add_argument_group("a replay that is there").add_mutually_exclusive_group()
        for name in ACTS:
            acts.add_argument(f"--{name}", type=int, metavar="ID")
        acts.add_argument("--list", action="store_true", help="the newest 50")
        parser.add_argument("--format", choices=("csv", "json"), default="csv", help="of --report")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Do it; exit 1 when it was refused or something of it failed."""
        acts = [name for name in ACTS if options[name] is not None]
        try:
            if options["list"]:
                self._print(_listed(one) for one in Replay.objects.newest_first()[:50])
            elif acts:
                self._act(acts[0], _found(options[acts[0]]), options)
            else:
                self._plan(options)
        except ReplayRefused as error:
            raise CommandError(str(error), returncode=1) from error

    # --- the verbs --------------------------------------------------------------------------------
    def _plan(self, options: dict[str, Any]) -> None:
        if options["only"] is None:
            raise CommandError("Say --only failed, missing or all.", returncode=2)
        wish = _wish(options)
        replay = replays.request(wish, actor=shell.actor(), user=None)
        while replay.state == ReplayState.PLANNING:
            replay_planning.run(replay.pk, seconds=LOOK_SECONDS)
            replay.refresh_from_db()
            if replay.state == ReplayState.PLANNING:
                time.sleep(0.05)
        self._print(_plan_lines(replay))
        if replay.state == ReplayState.FAILED:
            raise ReplayRefused(replay.reason)
        if replay.state != ReplayState.PLANNED:
            self.stdout.write("Nothing is to be sent.")
        elif options["yes"]:
            self._confirm(replay, options)
        else:
            self.stdout.write(
                f"Nothing was sent. To send it: manage.py replay --confirm {replay.pk}"
            )

    def _act(self, name: str, replay: Replay, options: dict[str, Any]) -> None:
        if name == "confirm":
            self._print(_plan_lines(replay))
            self._confirm(replay, options)
        elif name == "show":
            self._print(_result_lines(replay))
        elif name == "report":
            for piece in replay_report.export(
                replay, options["format"], clear=True, actor=shell.actor()
            ):
                self.stdout.write(piece, ending="")
        else:
            verb: Callable[..., object] = getattr(replays, name)
            verb(replay, actor=shell.actor())
            replay.refresh_from_db()
            self.stdout.write(_listed(replay))

    def _confirm(self, replay: Replay, options: dict[str, Any]) -> None:
        studies = options["studies"]
        if studies is None and replays.needs_typing(replay) and sys.stdin.isatty():
            typed = input(f"Type the number of studies ({replay.studies_count}) to send them: ")
            studies = int(typed) if typed.strip().isdigit() else None
        replays.confirm(replay, objects=replay.objects_count, studies=studies, actor=shell.actor())
        self.stdout.write(f"Replay {replay.pk} runs.")
        if options["wait"]:
            self._wait(replay, options["timeout"])

    def _wait(self, replay: Replay, timeout: float | None) -> None:
        limit = time.monotonic() + timeout if timeout else None
        while replay.state not in OVER and replay.state != ReplayState.PAUSED:
            if limit is not None and time.monotonic() > limit:
                self._print(_result_lines(replay))
                raise CommandError("It is not over yet.", returncode=1)
            time.sleep(LOOK_SECONDS)
            replay.refresh_from_db()
        self._print(_result_lines(replay))
        whole, _places = replay_report.figures(replay)
        if replay.state != ReplayState.DONE or whole.failed or whole.unasked:
            raise CommandError("Not everything was sent.", returncode=1)

    def _print(self, lines: Iterator[str]) -> None:
        for line in lines:
            self.stdout.write(line)


def _add_selection(parser: ArgumentParser) -> None:
    which = parser.add_argument_group("which studies, at least one of")
    which.add_argument(
        "--patient-id",
        default="",
        metavar="ID",
        help="'-' reads it from standard input, so that no list of processes shows it",
    )
    which.add_argument("--accession", default="", metavar="NUMBER")
    which.add_argument("--study", default="", metavar="UID", help="Study Instance UID")
    for name in ("study-date-from", "study-date-to"):
        which.add_argument(f"--{name}", type=date.fromisoformat, metavar="YYYY-MM-DD")
    for name in ("received-from", "received-to"):
        which.add_argument(
            f"--{name}", metavar="TIME", help="a day, or a moment as 2026-03-01T14:30, in UTC"
        )
    which.add_argument("--source", default="", metavar="NAME")
    which.add_argument("--rule", default="", metavar="NAME")
    which.add_argument("--destination", default="", metavar="NAME")
    which.add_argument("--state", default="", choices=["", *ItemState.values])  # fmt: skip


def _wish(options: dict[str, Any]) -> Wish:
    patient = options["patient_id"]
    selection = Selection(
        patient_id=sys.stdin.readline().strip() if patient == "-" else patient,
        accession_number=options["accession"],
        study_instance_uid=options["study"],
        study_date_from=options["study_date_from"],
        study_date_to=options["study_date_to"],
        received_from=_moment(options["received_from"]),
        received_to=_moment(options["received_to"], is_end=True),
        source=options["source"],
        rule=options["rule"],
        destination=options["destination"],
        state=options["state"],
    )
    return Wish(
        selection,
        ReplayOnly(options["only"]),
        ReplayRoute(options["route"]),
        ReplayContent(options["content"]),
        options["rate"],
    )


def _moment(text: str | None, *, is_end: bool = False) -> datetime | None:
    """Read a moment in UTC; a day as its beginning, or as its end."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        wanted = "A day as 2026-03-01 or a moment as 2026-03-01T14:30 is expected"
        raise CommandError(f"{wanted}, not {text!r}.", returncode=2) from error
    if len(text) == len("2026-03-01") and is_end:
        moment += timedelta(days=1)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _found(pk: int) -> Replay:
    replay = Replay.objects.filter(pk=pk).first()
    if replay is None:
        raise CommandError(f"There is no replay {pk}.", returncode=1)
    return replay


# --- what is printed -----------------------------------------------------------------------------
def _plan_lines(replay: Replay) -> Iterator[str]:
    yield (
        f"Replay {replay.pk}: {studies(replay.studies_count)}, {objects(replay.objects_count)}, "
        f"{size(replay.bytes)} to be sent"
    )
    _whole, places = replay_report.figures(replay)
    for place in places:
        yield f"  {place.name}: {_plan_of(place)}"
    yield from _reasons(replay)
    if replay.unread_count:
        yield f"  {objects(replay.unread_count)} could not be read and are left out"
    if replay.rate and replay.objects_count:
        least = span(max(1.0, replay.objects_count / replay.rate))
        yield f"  at {replay.rate:g} objects a second it takes {least} at least"


def _plan_of(place: Figures) -> str:
    parts = [f"{objects(place.meant)}, {size(place.meant_bytes)} to be sent"]
    parts += [
        f"{count:,} {replay_report.OUTCOMES[key].lower()}"
        for key, count in place.parts
        if key in replay_report.LEFT_OUT
    ]
    return "; ".join(parts)


def _result_lines(replay: Replay) -> Iterator[str]:
    yield _listed(replay)
    _whole, places = replay_report.figures(replay)
    for place in places:
        counts = [f"{count:,} {replay_report.OUTCOMES[key].lower()}" for key, count in place.parts]
        yield f"  {place.name}: {', '.join(counts)}"
    yield from _reasons(replay)


def _reasons(replay: Replay) -> Iterator[str]:
    for one in replay_report.reasons(replay):
        outcome = replay_report.OUTCOMES[one.outcome].lower()
        yield f"    {one.destination}, {one.count:,} {outcome}: {one.reason}"


def _listed(replay: Replay) -> str:
    what = f"{studies(replay.studies_count)}, {objects(replay.objects_count)}"
    why = f": {replay.reason}" if replay.reason else ""
    return f"Replay {replay.pk}, {ReplayState(replay.state).label.lower()}, {what}{why}"
