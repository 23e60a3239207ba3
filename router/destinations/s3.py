"""The kind `s3`: objects are put into a bucket of AWS or any S3-compatible store, by a layout.

Each is a Part 10 file of ours with a preamble of zeros, its data set unchanged and checked against
its stored hash before the first byte leaves. A key is looked up before it is written and nothing is
replaced: the same bytes count as delivered, other bytes under the same key get a number and a
warning.
"""

import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from django.utils import timezone

from router.destinations import key_locks, placing
from router.destinations.base import (
    Confirmation,
    Context,
    Kind,
    Outgoing,
    Presence,
    Result,
    Settings,
    Step,
    Verification,
)
from router.destinations.outcomes import Outcome, http_status
from router.destinations.s3_access import bucket
from router.destinations.s3_answers import Trouble
from router.destinations.s3_bucket import Bucket, Found, Taken
from router.destinations.s3_cargo import Cargo, Load, Watch, data_digest, measure, opened
from router.destinations.s3_form import MIB, S3Form
from router.dicom import layout
from router.dicom.errors import DicomError

MOST_KEY = 1024
TEST_CONTENT = b"A test of a DICOM router. It may be deleted.\n"
_NOT_BEGUN = Trouble(Outcome.NOT_SENT, "The sending was stopped on our side before this object.")


@dataclass(frozen=True, slots=True)
class _Stored:
    """Under which key an object lies, the one its layout asks for, and whether it was there."""

    key: str
    asked: str
    was_there: bool


class S3Sender:
    """One bucket, ready to be sent to."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._prefix = str(settings.get("prefix") or "")
        self._layout = layout.parse_layout(str(settings["layout"]))
        self._part_size = int(str(settings["part_size"])) * MIB

    def send(self, items: Sequence[Outgoing], context: Context) -> Iterator[Result]:
        """Put `items` one after the other; nothing follows once the store itself failed."""
        opening = self._opened(probe=context.echo_first)
        halt = opening if isinstance(opening, Trouble) else None
        for item in items:
            if halt is None and context.stop():
                halt = _NOT_BEGUN
            if halt is not None or isinstance(opening, Trouble):
                yield (halt or _NOT_BEGUN).result(item)
                continue
            watch = Watch(context, item.size)
            try:
                yield self._one(opening, item, watch)
            except Trouble as trouble:
                yield trouble.result(item, bytes_sent=watch.sent)
                if trouble.lane is not None or trouble.outcome == Outcome.NOT_SENT:
                    halt = trouble.for_those_after()

    def confirm(self, items: Sequence[Outgoing], context: Context) -> Iterator[Confirmation]:
        """Ask for each object and compare the store's own digest of it; where the store gives
        none that fits, read the object back."""
        opening = self._opened(probe=False)
        for item in items:
            try:
                if isinstance(opening, Trouble):
                    raise opening
                state, detail = self._presence(opening, item, Watch(context, item.size))
            except Trouble as trouble:
                state, detail = "unknown", trouble.detail
            yield Confirmation(item.item_id, state, detail)

    def verify(self) -> Verification:
        """Put, look up, read back and delete a small object below the prefix."""
        steps: list[Step] = []
        try:
            store = bucket(self._settings)
            steps.append(_step("settings", f"The requests go to {store.peer.name}."))
            region = store.probe()
            steps.append(_step("bucket", f"It answers{f', from {region}' if region else ''}."))
            self._try_out(store, steps)
        except Trouble as trouble:
            names = ("settings", "bucket", "put", "head", "get", "guard", "delete")
            steps.append(Step(names[len(steps)], ok=False, detail=trouble.detail))
        return Verification(tuple(steps))

    def _try_out(self, store: Bucket, steps: list[Step]) -> None:
        """Take the steps with a test object, which is deleted at the end whatever happened.

        Raises:
            Trouble: the step that comes next failed.
        """
        key = f"{self._prefix}dicom-router-test-{uuid.uuid4().hex}.txt"
        try:
            store.put_small(key, TEST_CONTENT)
            steps.append(_step("put", "A test object was put below the prefix."))
            steps.append(_looked(store.look(key)))
            read = b"".join(store.read(key))
            if read != TEST_CONTENT:
                raise Trouble(Outcome.CONFIGURATION, "What was read back is not what was put.")
            steps.append(_step("get", "It was read back unchanged."))
            steps.append(_guarded(store, key))
        except BaseException:
            _remove_quietly(store, key)
            raise
        store.delete(key)
        steps.append(_step("delete", "It was deleted again."))

    def _opened(self, *, probe: bool) -> Bucket | Trouble:
        try:
            store = bucket(self._settings)
            if probe:
                store.probe()
        except Trouble as trouble:
            return trouble
        return store

    def _one(self, store: Bucket, item: Outgoing, watch: Watch) -> Result:
        """Put one item.

        Raises:
            Trouble: it was not stored.
        """
        asked = self._key(item)
        with opened(item) as file:
            cargo = measure(item, file, watch, part_size=self._part_size)
            load = Load(item, file, cargo, watch)
            with key_locks.alone(f"{store.peer.name} {asked}", waiting=watch.waiting):
                return _result(item, _placed(store, load, asked))

    def _presence(self, store: Bucket, item: Outgoing, watch: Watch) -> tuple[Presence, str]:
        """Say what the store holds of `item`.

        Raises:
            Trouble: it cannot be asked.
        """
        cargo = self._cargo(item, watch)
        others = 0
        for key in _versions(self._key(item)):
            watch.look_up()
            found = store.look(key)
            if found is None:
                break
            if cargo is not None and found.is_file(cargo):
                return "present", "The store's own digest of it is that of the file."
            if found.may_hold(item) and _reads_same(store, key, item, watch):
                return "present", "It was read back unchanged."
            others += 1
        if others:
            return "different", "Another object has its key."
        return "absent", "The store has no object with its key."

    def _cargo(self, item: Outgoing, watch: Watch) -> Cargo | None:
        """Return the file as it left, None when it cannot be read here any more."""
        try:
            with opened(item) as file:
                return measure(item, file, watch, part_size=self._part_size)
        except Trouble as trouble:
            if trouble.outcome == Outcome.NOT_SENT:
                raise
            return None

    def _key(self, item: Outgoing) -> str:
        try:
            header = item.header()
        except (DicomError, OSError) as error:
            detail = "The stored object's header cannot be read; nothing was sent."
            raise Trouble(Outcome.DATA_ERROR, detail) from error
        received = f"{timezone.localtime(item.received_at):%Y%m%d}"
        path = layout.render(self._layout, header, received_date=received, source=item.source)
        key = self._prefix + path
        if len(key) > MOST_KEY:
            detail = f"Its key would have more than {MOST_KEY} characters; nothing was sent."
            raise Trouble(Outcome.DATA_ERROR, detail)
        return key


def _placed(store: Bucket, load: Load, asked: str) -> _Stored:
    """Put a load under the first version of its key that is free or holds it already.

    Raises:
        Trouble: it was not stored.
    """
    for key in _versions(asked):
        load.watch.look_up()
        found = store.look(key) or _put(store, key, load)
        if found is None:
            return _Stored(key, asked, was_there=False)
        if found.is_marked(load.item) or found.is_file(load.cargo):
            return _Stored(key, asked, was_there=True)
    raise Trouble(Outcome.DATA_ERROR, "Every version of its key is taken by another object.")


def _put(store: Bucket, key: str, load: Load) -> Found | None:
    """Put a load under a free key; return what took the key meanwhile, if anything did.

    Raises:
        Trouble: it was not stored.
    """
    try:
        store.put(key, load)
    except Taken as error:
        found = store.look(key)
        if found is None:
            detail = "Its key was taken for a moment, and is free again."
            raise Trouble(Outcome.RETRY, detail) from error
        return found
    return None


def _versions(key: str) -> Iterator[str]:
    folder, slash, name = key.rpartition("/")
    return (f"{folder}{slash}{version}" for version in placing.versions(name))


def _reads_same(store: Bucket, key: str, item: Outgoing, watch: Watch) -> bool:
    def watched() -> Iterator[bytes]:
        for block in store.read(key):
            watch.look_up()
            watch.moved(0)
            yield block

    try:
        return data_digest(watched()) == (item.transfer_syntax, item.sha256)
    except DicomError:
        return False


def _result(item: Outgoing, stored: _Stored) -> Result:
    detail = "The object was there already." if stored.was_there else "The object was put."
    warnings: tuple[str, ...] = ()
    if stored.key != stored.asked:
        detail = f"{detail[:-1]} with a number, because another object has its key."
        warnings = (detail,)
    return Result(
        item.item_id,
        Outcome.WARNING if warnings else Outcome.DELIVERED,
        detail,
        status=http_status(200),
        egress_sha256=item.sha256,
        bytes_sent=0 if stored.was_there else item.size,
        transfer_syntax=item.transfer_syntax,
        warnings=warnings,
    )


def _step(name: str, detail: str) -> Step:
    return Step(name, ok=True, detail=detail)


def _looked(found: Found | None) -> Step:
    """Return what the store says of the test object as a step.

    Raises:
        Trouble: it does not have it.
    """
    if found is None or found.size != len(TEST_CONTENT):
        raise Trouble(Outcome.CONFIGURATION, "The store does not show what was put.")
    said = {
        "encryption": found.encryption or "none said",
        "storage class": found.storage_class or "standard",
        "SHA-256": "kept" if found.checksum else "not kept",
    }
    return _step("head", "; ".join(f"{key}: {value}" for key, value in said.items()) + ".")


def _guarded(store: Bucket, key: str) -> Step:
    """Try to replace the test object, which a store that refuses to replace must not allow.

    Raises:
        Trouble: it allows it.
    """
    if not store.manner.refuses:
        return _step("guard", "Keys are looked up before they are written.")
    try:
        store.put_small(key, TEST_CONTENT)
    except Taken:
        return _step("guard", "The store refuses to replace an object.")
    detail = "The store replaces objects despite If-None-Match; write overwrite_guard: head."
    raise Trouble(Outcome.CONFIGURATION, detail)


def _remove_quietly(store: Bucket, key: str) -> None:
    """Remove the test object after another step failed, which is the one to be told."""
    with suppress(Trouble):
        store.delete(key)


KIND = Kind(
    name="s3",
    label="S3 bucket",
    form=S3Form,
    sender=S3Sender,
    endpoint_fields=("endpoint", "region", "bucket", "prefix"),
)
