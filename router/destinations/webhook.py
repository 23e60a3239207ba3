"""The kind `webhook`: an address is told of each study or series that a rule sends there.

One signed POST of JSON an event (Standard Webhooks: id, timestamp, HMAC-SHA256 over the raw body);
its id is the same at each try. No object leaves. The objects of an event are delivered together, by
one 2xx.
"""

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC
from typing import cast

from django import forms
from django.conf import settings as project
from django.core.exceptions import ValidationError

from router import secrets
from router.destinations import payload
from router.destinations.base import (
    Context,
    Kind,
    Outgoing,
    Result,
    Settings,
    Step,
    Verification,
)
from router.destinations.grades import ACCEPTED, GradeField
from router.destinations.outcomes import Outcome, Overrides
from router.destinations.references import keys_of, references
from router.destinations.session import Broken, Failed, Session, StoppedHere, peer_of
from router.destinations.verdicts import STOPPED, Verdict, judge
from router.destinations.web import WebForm
from router.dicom.errors import DicomError, RuleError

PREFIX = "whsec_"
LEAST_KEY_BYTES = 16


class PayloadField(forms.Field):
    """A template of JSON (see `router.destinations.payload`), from YAML or as text."""

    def __init__(self) -> None:
        super().__init__(initial=dict(payload.DEFAULT), required=False)

    def to_python(self, value: object) -> object:
        """Return the template as a mapping."""
        try:
            return dict(payload.parse(value))
        except RuleError as error:
            raise ValidationError(f"{error}.") from error


class WebhookForm(WebForm):
    """The settings of a receiver of events."""

    per = forms.ChoiceField(
        choices=[("study", "Study"), ("series", "Series")], initial="study", required=False
    )
    payload = PayloadField()
    secret_env, secret_file, secret_stored = references()
    previous_secret_env, previous_secret_file, previous_secret_stored = references()
    proof = GradeField(ACCEPTED, why="A receiver of events cannot be asked what it has.")
    proof_after = None  # type: ignore[assignment]  # Django's way to take a field out
    proof_retry = None  # type: ignore[assignment]
    proof_resends = None  # type: ignore[assignment]

    def clean(self) -> dict[str, object]:
        """An event without a signature could come from anyone."""
        cleaned = super().clean()
        self.need_one(keys_of("secret"), "The secret that signs the events")
        if any(cleaned.get(key) for key in keys_of("previous_secret")):
            self.need_one(keys_of("previous_secret"), "The secret from before")
        return cleaned


@dataclass(frozen=True, slots=True)
class Event:
    """One study or series with the objects of it that a rule chose."""

    identifier: str
    name: str
    items: Sequence[Outgoing]


class _Unsigned(Exception):
    """A secret cannot be had or is none."""


class WebhookSender:
    """One receiver, ready to be told."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._url = str(settings["url"])
        self._name = peer_of(self._url)
        self._per_series = settings.get("per") == "series"
        self._template = cast(Mapping[str, object], settings["payload"])  # the form made it
        self._overrides = cast(Overrides, settings.get("outcomes") or {})  # JSON has no types

    def send(self, items: Sequence[Outgoing], context: Context) -> Iterator[Result]:
        """Tell of `items`, one event after the other."""
        with Session(self._settings, context) as session:
            halt = self._ping(session) if context.echo_first else None
            for event in self._events(items):
                if halt is None and context.stop():
                    halt = STOPPED
                if halt is not None:
                    after = halt.for_those_after()
                    yield from (after.result(item) for item in event.items)
                    continue
                verdict = self._tell(event, session)
                halt = verdict if verdict.lane or verdict is STOPPED else None
                yield from (verdict.result(item) for item in event.items)

    def verify(self) -> Verification:
        """Send a signed ping, and say what is answered."""
        with Session(self._settings, Context()) as session:
            verdict = self._ping(session)
        if verdict is None:
            detail = f"{self._name} took a signed ping."
            return Verification((Step("ping", ok=True, detail=detail),))
        return Verification((Step("ping", ok=False, detail=verdict.detail),))

    # --- events ----------------------------------------------------------------------------------
    def _events(self, items: Sequence[Outgoing]) -> Iterator[Event]:
        groups: dict[tuple[str, ...], list[Outgoing]] = {}
        for item in items:
            series = item.series_instance_uid if self._per_series else ""
            groups.setdefault((item.group, item.study_instance_uid, series), []).append(item)
        name = "series.sent" if self._per_series else "study.sent"
        for key, members in groups.items():
            digest = hashlib.sha256("\n".join(key).encode()).hexdigest()
            yield Event(f"evt_{digest[:32]}", name, members)

    def _tell(self, event: Event, session: Session) -> Verdict:
        try:
            values = self._values(event)
        except DicomError:
            detail = "The stored object's header cannot be read; nothing was sent."
            return Verdict(Outcome.DATA_ERROR, detail)
        except OSError as error:
            cause = error.strerror or "input error"
            detail = f"The stored object cannot be read at the moment: {cause}."
            return Verdict(Outcome.RETRY, detail)
        return self._post(event.identifier, payload.render(self._template, values), session)

    def _values(self, event: Event) -> dict[str, object]:
        """Return what the template may name.

        Raises:
            DicomError, OSError: the header of the first object is needed and cannot be read.
        """
        first = event.items[0]
        values = _facts(event) | _links(first)
        values["StudyInstanceUID"] = first.study_instance_uid
        if self._per_series:
            values["SeriesInstanceUID"] = first.series_instance_uid
        wanted = payload.names(self._template) - values.keys()
        if wanted:
            header = first.header()
            values |= {name: header.text(name) or None for name in wanted}
        return values

    # --- the wire --------------------------------------------------------------------------------
    def _ping(self, session: Session) -> Verdict | None:
        """Send what is no event; return why events cannot be sent, None if they can."""
        identifier = f"ping_{time.time_ns():x}"
        verdict = self._post(identifier, {"type": "ping", "id": identifier}, session)
        if verdict.outcome == Outcome.DELIVERED:
            return None
        if verdict.lane is None and verdict is not STOPPED:
            return Verdict(Outcome.CONFIGURATION, verdict.detail, "configuration")
        return verdict.for_those_after()

    def _post(self, identifier: str, content: object, session: Session) -> Verdict:
        body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
        left = _Left(body)
        try:
            headers = self._signed(identifier, body)
            answer = session.post(self._url, left.body, headers=headers, size=len(body))
        except _Unsigned as error:
            return Verdict(Outcome.CONFIGURATION, str(error), "configuration")
        except StoppedHere:
            return _unknown(STOPPED) if left.is_complete else STOPPED
        except Broken as error:
            return _unknown(error.verdict) if left.is_complete else error.verdict
        except Failed as error:
            return error.verdict
        if 200 <= answer.status < 300:
            detail = f"{self._name} took the event {identifier} (HTTP {answer.status})."
            return Verdict(Outcome.DELIVERED, detail)
        return judge(
            answer.status,
            peer=self._name,
            retry_after=answer.retry_after,
            overrides=self._overrides,
        )

    def _signed(self, identifier: str, body: bytes) -> dict[str, str]:
        """Return the headers of Standard Webhooks; while secrets change, one signature for each.

        Raises:
            _Unsigned: there is no usable secret.
        """
        moment = str(int(time.time()))
        content = f"{identifier}.{moment}.".encode() + body
        return {
            "Content-Type": "application/json",
            "webhook-id": identifier,
            "webhook-timestamp": moment,
            "webhook-signature": " ".join(sign(key, content) for key in self._keys()),
        }

    def _keys(self) -> list[bytes]:
        try:
            names = ("secret", "previous_secret")
            texts = [secrets.resolve(self._settings, name) for name in names]
        except secrets.Unresolved as error:
            detail = f"A secret of this destination cannot be had: {error}."
            raise _Unsigned(detail) from error
        if not texts[0]:
            raise _Unsigned("The secret that signs the events is empty.")
        return [_key(text) for text in texts if text]


def sign(key: bytes, content: bytes) -> str:
    """Return a signature of Standard Webhooks, version 1."""
    return "v1," + base64.b64encode(hmac.digest(key, content, "sha256")).decode("ascii")


def _key(text: str) -> bytes:
    """Return the bytes of a secret: Base64 behind `whsec_`, else its text.

    Raises:
        _Unsigned: it is too short, or no Base64.
    """
    try:
        is_coded = text.startswith(PREFIX)
        key = (
            base64.b64decode(text.removeprefix(PREFIX), validate=True)
            if is_coded
            else text.encode()
        )
    except binascii.Error as error:
        raise _Unsigned(f"A secret begins with {PREFIX} and is no Base64 behind it.") from error
    if len(key) < LEAST_KEY_BYTES:
        raise _Unsigned(f"A secret is shorter than {LEAST_KEY_BYTES} bytes.")
    return key


@dataclass
class _Left:
    """A body that knows whether it has left."""

    content: bytes
    is_complete: bool = field(default=False)

    def body(self) -> Iterator[bytes]:
        self.is_complete = False
        yield self.content
        self.is_complete = True


def _unknown(verdict: Verdict) -> Verdict:
    detail = f"{verdict.detail} The event had left; whether it arrived is not known."
    return replace(verdict, outcome=Outcome.UNKNOWN, detail=detail)


def _facts(event: Event) -> dict[str, object]:
    series: dict[str, list[Outgoing]] = {}
    for item in event.items:
        series.setdefault(item.series_instance_uid, []).append(item)
    received = min(item.received_at for item in event.items).astimezone(UTC)
    return {
        "event": event.name,
        "event_id": event.identifier,
        "source": event.items[0].source,
        "received_at": received.isoformat(timespec="seconds"),
        "instances": len(event.items),
        "bytes": sum(item.size for item in event.items),
        "modalities": sorted({item.modality for item in event.items if item.modality}),
        "series": [
            {
                "series_instance_uid": uid,
                "modality": members[0].modality,
                "instances": len(members),
            }
            for uid, members in series.items()
        ],
    }


def _links(first: Outgoing) -> dict[str, object]:
    root, uid = project.PUBLIC_URL, first.study_instance_uid
    return {
        "study_url": f"{root}/studies/{first.study_id}/",
        "viewer_url": f"{root}/ohif/viewer?StudyInstanceUIDs={uid}",
        "dicomweb_url": f"{root}/dicom-web/studies/{uid}",
    }


KIND = Kind(
    name="webhook",
    label="Webhook",
    form=WebhookForm,
    sender=WebhookSender,
    endpoint_fields=("url",),
    unit="study",
)
