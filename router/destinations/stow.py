"""The kind `stow`: objects leave by STOW-RS to an origin server (PS3.18 10.5).

Untouched objects leave byte for byte as they are stored, several to a request. What the answer says
of each instance counts, not its status line; what it does not name is not known to have arrived. An
instance that the server says it has is delivered only when it gives back the same bytes.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

from django import forms
from django.core.exceptions import ValidationError

from router.destinations.base import (
    Confirmation,
    Context,
    Kind,
    Outgoing,
    Result,
    Settings,
    Step,
    Verification,
)
from router.destinations.grades import ACCEPTED, NO_COMMITMENT, VERIFIED, GradeField
from router.destinations.outcomes import (
    Outcome,
    Overrides,
    classify,
    overridden,
    status_sentence,
)
from router.destinations.references import keys_of
from router.destinations.session import Answer, Failed, Session, StoppedHere, peer_of
from router.destinations.stow_batches import Parcel, Unsendable, batches
from router.destinations.stow_presets import PRESETS, Preset
from router.destinations.stow_queries import Existing, Queries
from router.destinations.verdicts import STOPPED, Verdict, judge
from router.destinations.web import WebForm
from router.dicom import store_answer
from router.dicom.store_answer import Said, StoreAnswer

READABLE = frozenset({200, 201, 202, 400, 409})
ACCEPT = "application/dicom+json"
ARRIVED = frozenset({Outcome.DELIVERED, Outcome.WARNING})
MOST_FAILURES = 12
"""So many requests in a row may fail for what may be one object's fault: more than it takes to find
one among a full batch by halves. Then it is the server's."""

Sent = Generator[Result, None, Verdict | None]
"""Yields results; returns why nothing may follow."""


class StowForm(WebForm):
    """The settings of an origin server."""

    service = forms.ChoiceField(
        choices=[(name, preset.label) for name, preset in PRESETS.items()],
        initial="standard",
        required=False,
    )
    batch = forms.IntegerField(min_value=1, max_value=500, initial=50, required=False)
    batch_bytes = forms.IntegerField(
        min_value=1 << 20, max_value=4 << 30, initial=256 << 20, required=False
    )
    confirm = forms.ChoiceField(
        choices=[("query", "It is listed"), ("read", "The same bytes come back")],
        initial="query",
        required=False,
    )

    proof = GradeField(ACCEPTED, VERIFIED, why=NO_COMMITMENT)

    def clean(self) -> dict[str, object]:
        """Hold the address against the shape of the service's."""
        cleaned = super().clean()
        preset = PRESETS[str(cleaned.get("service") or "standard")]
        if cleaned.get("url") and not preset.url.match(str(cleaned["url"])):
            message = f"An address of {preset.label} is expected, like {preset.example}."
            self.add_error("url", ValidationError(message))
        asks = ("oauth_url", *keys_of("service_key"))
        if any(cleaned.get(key) for key in asks):
            cleaned["oauth_scope"] = cleaned.get("oauth_scope") or preset.scope
        return cleaned


@dataclass
class _Run:
    """What one sending has come to: `failures` are requests in a row that may be one object's
    fault."""

    session: Session
    context: Context
    failures: int = 0


class StowSender:
    """One origin server, ready to be sent to."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._url = str(settings["url"])
        self._name = peer_of(self._url)
        self._preset: Preset = PRESETS[str(settings.get("service") or "standard")]
        overrides = cast(Overrides, settings.get("outcomes") or {})  # JSON has no types
        self._overrides: Overrides = {**self._preset.outcomes, **overrides}
        self._reads_back = settings.get("confirm") == "read"
        self._most = int(str(settings["batch"]))
        self._most_bytes = min(int(str(settings["batch_bytes"])), self._preset.most_bytes)

    def send(self, items: Sequence[Outgoing], context: Context) -> Iterator[Result]:
        """Send `items` in as few requests as their bounds allow, one after the other."""
        with Session(self._settings, context) as session:
            run = _Run(session, context)
            halt = self._probe(session) if context.echo_first else None
            for batch in batches(items, most=self._most, most_bytes=self._most_bytes):
                halt = yield from self._unless(halt, batch, run)

    def verify(self) -> Verification:
        """Ask for one study, or for what the service can do, and say what it answered."""
        with Session(self._settings, Context()) as session:
            return Verification((self._asked(session),))

    def confirm(self, items: Sequence[Outgoing], context: Context) -> Iterator[Confirmation]:
        """Ask for each item by its UIDs; compare the bytes that come back, where that is set."""
        with Session(self._settings, context) as session:
            queries = Queries(session, self._url, context)
            for item in items:
                found = queries.existing(item) if self._reads_back else queries.listed(item)
                yield Confirmation(item.item_id, found.state, found.detail)

    # --- sending ---------------------------------------------------------------------------------
    def _unless(self, halt: Verdict | None, batch: Sequence[Outgoing], run: _Run) -> Sent:
        """Send `batch`, or say of each why it was not begun; return why nothing may follow."""
        if halt is None and run.context.stop():
            halt = STOPPED
        if halt is None:
            return (yield from self._store(batch, run))
        after = halt.for_those_after()
        yield from (after.result(item) for item in batch)
        return halt

    def _store(self, batch: Sequence[Outgoing], run: _Run) -> Sent:
        """Send one request; what it leaves open is sent again, in smaller ones."""
        while batch:
            parcel = Parcel(batch)
            try:
                answer = self._post(parcel, run.session)
            except Unsendable as error:
                yield error.verdict.result(error.item)
                batch = [item for item in batch if item is not error.item]
                continue
            except Failed as error:
                yield from _broken(parcel, error.verdict)
                return error.verdict
            except StoppedHere:
                yield from _broken(parcel, STOPPED)
                return STOPPED
            read = _read(answer) if answer.status in READABLE else None
            if read is not None and parcel.is_complete:  # else it cannot have seen all it names
                return (yield from self._each(parcel, answer, read, run))
            return (yield from self._as_a_whole(parcel, answer, run))
        return None

    def _post(self, parcel: Parcel, session: Session) -> Answer:
        headers = {"Content-Type": parcel.framing.content_type, "Accept": ACCEPT}
        url = f"{self._url}/studies"
        return session.post(url, parcel.body, headers=headers, size=parcel.size)

    def _as_a_whole(self, parcel: Parcel, answer: Answer, run: _Run) -> Sent:
        """An answer that names no instance."""
        batch = parcel.items
        if 200 <= answer.status < 300:
            said = f"{self._name} answered HTTP {answer.status}"
            detail = f"{said} without saying which objects it has taken."
            yield from (_result(item, Outcome.UNKNOWN, detail) for item in batch)
            return None
        verdict = judge(
            answer.status,
            peer=self._name,
            retry_after=answer.retry_after,
            overrides=self._overrides,
        )
        run.failures += verdict.splits
        if verdict.splits and run.failures >= MOST_FAILURES:
            verdict = replace(verdict, outcome=Outcome.RETRY, lane="transport")
        elif verdict.splits and len(batch) > 1:
            half = len(batch) // 2
            halt = yield from self._unless(None, batch[:half], run)
            return (yield from self._unless(halt, batch[half:], run))
        sizes = [item.size if parcel.is_complete else 0 for item in batch]
        pairs = zip(batch, sizes, strict=True)
        yield from (verdict.result(item, bytes_sent=size) for item, size in pairs)
        return verdict if verdict.lane else None

    # --- what the answer says of each ------------------------------------------------------------
    def _each(self, parcel: Parcel, answer: Answer, read: StoreAnswer, run: _Run) -> Sent:
        run.failures, batch = 0, parcel.items
        unnamed: list[Outgoing] = []
        for item in batch:
            said = read.instances.get(item.sop_instance_uid)
            if said is None and len(batch) == 1 and read.others:
                said = Said(stored=False, reason=read.others[0])
            if said is None:
                unnamed.append(item)
            else:
                yield self._judge(item, said, run)
        was_refused = bool(read.others) or answer.status >= 400
        if was_refused and len(batch) > 1:  # some of these were: each by itself is told apart
            halt: Verdict | None = None
            for item in unnamed:
                halt = yield from self._unless(halt, [item], run)
            return halt
        detail = f"{self._name} does not say what became of this object."
        yield from (_result(item, Outcome.UNKNOWN, detail) for item in unnamed)
        return None

    def _judge(self, item: Outgoing, said: Said, run: _Run) -> Result:
        if said.reason is None:
            if said.stored:
                detail = f"{self._name} has stored it."
                return _result(item, Outcome.DELIVERED, detail, status=0)
            detail = f"{self._name} has not stored it and gives no reason."
            return _result(item, Outcome.RETRY, detail)
        outcome = overridden(said.reason, self._overrides)
        if outcome is None and not said.stored and said.reason in self._preset.already:
            existing = Queries(run.session, self._url, run.context).existing(item)
            return _already(item, existing, said.reason)
        if outcome is None:
            outcome = Outcome.WARNING if said.stored else _refused(said.reason)
        detail = status_sentence(said.reason, peer=self._name)
        return _result(item, outcome, detail, status=said.reason)

    # --- asking ----------------------------------------------------------------------------------
    def _probe(self, session: Session) -> Verdict | None:
        """Ask before the first object (R21); return why it may not leave."""
        try:
            verdict = Queries(session, self._url, Context()).service()[0]
        except StoppedHere:
            return STOPPED
        except Failed as error:
            verdict = error.verdict
        return None if verdict is None else verdict.for_those_after()

    def _asked(self, session: Session) -> Step:
        try:
            verdict, detail = Queries(session, self._url, Context()).service()
        except Failed as error:
            return Step("service", ok=False, detail=error.verdict.detail)
        return Step("service", ok=verdict is None, detail=verdict.detail if verdict else detail)


def _read(answer: Answer) -> StoreAnswer | None:
    try:
        read = store_answer.read(answer.body, answer.content_type)
    except store_answer.UnreadableAnswer:
        return None
    return read if read.instances or read.others else None


def _refused(reason: int) -> Outcome:
    """What a Failure Reason means; one that the table knows as a success is none here."""
    outcome = classify(reason)
    return Outcome.DATA_ERROR if outcome in ARRIVED else outcome


def _broken(parcel: Parcel, verdict: Verdict) -> Iterator[Result]:
    """What is known when a request ended without an answer: of what left whole, nothing."""
    after = verdict.for_those_after()
    for number, item in enumerate(parcel.items, 1):
        if number <= parcel.whole:
            detail = (
                f"{verdict.detail} All of the object had left; whether it arrived is not known."
            )
            yield Result(
                item.item_id,
                Outcome.UNKNOWN,
                detail,
                bytes_sent=item.size,
                transfer_syntax=item.transfer_syntax,
                lane=verdict.lane,
                pause=verdict.pause,
            )
        elif number == parcel.begun or verdict.outcome == Outcome.CONFIGURATION:
            yield verdict.result(item)
        else:
            yield after.result(item)


def _already(item: Outgoing, existing: Existing, reason: int | None) -> Result:
    outcomes = {
        "present": Outcome.DELIVERED,
        "different": Outcome.DATA_ERROR,
        "absent": Outcome.RETRY,
        "unknown": Outcome.DATA_ERROR if existing.is_final else Outcome.RETRY,
    }
    detail = f"It answered that an object of this UID is there already. {existing.detail}"
    return _result(item, outcomes[existing.state], detail, status=reason)


def _result(item: Outgoing, outcome: Outcome, detail: str, *, status: int | None = None) -> Result:
    """The result of an object that left whole."""
    return Result(
        item.item_id,
        outcome,
        detail,
        status=status,
        egress_sha256=item.sha256,
        bytes_sent=item.size,
        transfer_syntax=item.transfer_syntax,
        warnings=(detail,) if outcome == Outcome.WARNING else (),
    )


KIND = Kind(
    name="stow",
    label="DICOMweb (STOW-RS)",
    form=StowForm,
    sender=StowSender,
    endpoint_fields=("url",),
)
