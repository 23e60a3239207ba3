"""The kind `folder`: objects are written as Part 10 files below a folder, by a layout (PS3.10 7).

A file appears whole or not at all and never replaces another: other bytes under the same path get a
number and a warning, the same bytes count as delivered. Each file has our file meta and a
preamble of zeros; the data set is copied unchanged and checked against its stored hash before it
gets its name.
"""

import errno
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath

from django.core.exceptions import ValidationError
from django.utils import timezone

from router.destinations import folder_confirm, placing
from router.destinations.base import (
    Confirmation,
    Context,
    Kind,
    Lane,
    Outgoing,
    Result,
    Settings,
    Step,
    Verification,
)
from router.destinations.fields import TextField
from router.destinations.form import DestinationForm
from router.destinations.grades import ACCEPTED, NO_COMMITMENT, VERIFIED, GradeField
from router.destinations.outcomes import Outcome
from router.dicom import layout, part10
from router.dicom.errors import DicomError, RuleError

BLOCK_BYTES = 1 << 20
DEFAULT_LAYOUT = "{StudyInstanceUID}/{SeriesInstanceUID}/{SOPInstanceUID}.dcm"
MODE = re.compile(r"0?([0-7]{3})\Z")

REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR})
UNFIT = frozenset({errno.ENAMETOOLONG, errno.EEXIST})


class PathField(TextField):
    """An absolute path."""

    def to_python(self, value: object) -> str:
        """Return the path without what does not belong there."""
        text = super().to_python(value)
        if not text:
            return text
        path = PurePosixPath(text)
        if not path.is_absolute() or ".." in path.parts or "\0" in text or path == path.parent:
            raise ValidationError("An absolute path below / is expected, without '..'.")
        return str(path)


class LayoutField(TextField):
    """A path template for the files (see `router.dicom.layout`)."""

    def to_python(self, value: object) -> str:
        """Return the template as it was given."""
        text = super().to_python(value)
        try:
            layout.parse_layout(text)
        except RuleError as error:
            raise ValidationError(str(error)) from error
        return text


class ModeField(TextField):
    """File permissions as octal text."""

    def to_python(self, value: object) -> str:
        """Return the mode as four octal digits."""
        found = MODE.match(value) if isinstance(value, str) else None
        if found is None:
            raise ValidationError('A file mode in quotes is expected, like "0640".')
        return f"0{found[1]}"


class FolderForm(DestinationForm):
    """The settings of a folder. `mode` is of the files; folders get the matching search bits."""

    path = PathField(max_length=1024)
    layout = LayoutField(max_length=1024, initial=DEFAULT_LAYOUT, required=False)
    mode = ModeField(initial="0640", required=False)
    proof = GradeField(ACCEPTED, VERIFIED, why=NO_COMMITMENT)


class _Trouble(Exception):
    """What a failed item is to be told, as a result without a number."""

    def __init__(self, outcome: Outcome, detail: str, lane: Lane | None = None) -> None:
        super().__init__(detail)
        self.outcome, self.detail, self.lane = outcome, detail, lane

    def result(self, item: Outgoing) -> Result:
        return Result(item.item_id, self.outcome, self.detail, lane=self.lane)


_NOT_BEGUN = _Trouble(Outcome.NOT_SENT, "The writing was stopped on our side before this object.")


class FolderSender:
    """One folder, ready to be written to."""

    def __init__(self, settings: Settings) -> None:
        self._root = Path(str(settings["path"]))
        self._layout = layout.parse_layout(str(settings["layout"]))
        self._mode = int(str(settings["mode"]), 8)
        self._folder_mode = self._mode | (self._mode & 0o444) >> 2

    def send(self, items: Sequence[Outgoing], context: Context) -> Iterator[Result]:
        """Write `items` one after the other; nothing follows once the folder itself failed."""
        halt = self._unusable()
        for item in items:
            if halt is None and context.stop():
                halt = _NOT_BEGUN
            if halt is not None:
                yield halt.result(item)
                continue
            try:
                yield self._one(item, context)
            except _Trouble as trouble:
                yield trouble.result(item)
                if trouble.lane is not None:
                    outcome = trouble.outcome
                    if outcome == Outcome.RETRY:
                        outcome = Outcome.NOT_SENT
                    halt = _Trouble(outcome, trouble.detail, trouble.lane)

    def verify(self) -> Verification:
        """Look whether the folder is there, takes a file and has room."""
        trouble = self._unusable()
        if trouble is not None:
            return Verification((Step("folder", ok=False, detail=trouble.detail),))
        there = Step("folder", ok=True, detail=f"{self._root} is a folder.")
        try:
            self._try_writing()
            free = shutil.disk_usage(self._root).free
        except OSError as error:
            failed = Step("write", ok=False, detail=self._trouble_of(error).detail)
            return Verification((there, failed))
        written = Step("write", ok=True, detail="A file can be written and made durable.")
        room = Step("room", ok=free > 0, detail=f"{free >> 20} MiB are free.")
        return Verification((there, written, room))

    def confirm(self, items: Sequence[Outgoing], context: Context) -> Iterator[Confirmation]:
        """Read each object back and compare it."""
        for item in items:
            try:
                path = self._path(item)
            except _Trouble as trouble:
                yield Confirmation(item.item_id, "unknown", trouble.detail)
            else:
                yield folder_confirm.look_up(item, path, context, root=self._root)

    def _try_writing(self) -> None:
        with placing.folder(self._root, (), mode=self._folder_mode) as opened:
            draft = placing.Draft(opened, mode=self._mode)
            try:
                draft.write(b"\0")
                draft.sync()
            finally:
                draft.close()

    def _unusable(self) -> _Trouble | None:
        """Make the folder when it is missing; say why it cannot be used."""
        try:
            self._root.mkdir(mode=self._folder_mode, parents=True, exist_ok=True)
        except OSError as error:
            detail = f"{self._root} is missing and cannot be made: {error.strerror}."
            return _Trouble(Outcome.CONFIGURATION, detail, "configuration")
        return None

    def _one(self, item: Outgoing, context: Context) -> Result:
        """Write one item.

        Raises:
            _Trouble: it was not written.
        """
        path = self._path(item)
        try:
            with placing.folder(self._root, path.parts[:-1], mode=self._folder_mode) as opened:
                name, was_there = self._place(item, context, opened, path.name)
        except placing.Outside as error:
            detail = f"Nothing was written below {self._root}: {error}."
            raise _Trouble(Outcome.CONFIGURATION, detail) from error
        except OSError as error:
            raise self._trouble_of(error) from error
        return self._written(item, name=name, asked=path.name, was_there=was_there)

    def _path(self, item: Outgoing) -> PurePosixPath:
        try:
            header = item.header()
        except (DicomError, OSError) as error:
            detail = "The stored object's header cannot be read; nothing was written."
            raise _Trouble(Outcome.DATA_ERROR, detail) from error
        received = f"{timezone.localtime(item.received_at):%Y%m%d}"
        return PurePosixPath(
            layout.render(self._layout, header, received_date=received, source=item.source)
        )

    def _place(self, item: Outgoing, context: Context, opened: int, name: str) -> tuple[str, bool]:
        with ExitStack() as stack:

            def draft() -> placing.Draft:
                made = placing.Draft(opened, mode=self._mode)
                stack.callback(made.close)
                _copy(item, context, made)
                return made

            return placing.publish_as(draft, opened, name, is_same=_holds(item))

    def _written(self, item: Outgoing, *, name: str, asked: str, was_there: bool) -> Result:
        detail = "The file was there already." if was_there else "The file was written."
        warnings: tuple[str, ...] = ()
        if name != asked:
            detail = f"{detail[:-1]} with a number, because another object has its path."
            warnings = (detail,)
        return Result(
            item.item_id,
            Outcome.WARNING if warnings else Outcome.DELIVERED,
            detail,
            egress_sha256=item.sha256,
            bytes_sent=0 if was_there else item.size,
            transfer_syntax=item.transfer_syntax,
            warnings=warnings,
        )

    def _trouble_of(self, error: OSError) -> _Trouble:
        outcome, lane = judge(error)
        # The path of the file stays out of the sentence: it may hold the patient's id.
        detail = f"{self._root} cannot be written to: {error.strerror or 'input error'}."
        return _Trouble(outcome, detail, lane)


def judge(error: OSError) -> tuple[Outcome, Lane | None]:
    """Return what a failed system call on the folder means for the item and for the folder."""
    if error.errno in UNFIT:
        return Outcome.DATA_ERROR, None
    if error.errno == errno.EFBIG:
        return Outcome.FEW_TRIES, None
    if error.errno in REFUSED:
        return Outcome.CONFIGURATION, "configuration"
    return Outcome.RETRY, "transport"


def _copy(item: Outgoing, context: Context, draft: placing.Draft) -> None:
    """Copy `item` into `draft` with our file meta, durably.

    Raises:
        _Trouble: it is not what it should be, cannot be read, takes too long, or we are stopped.
    """
    end = time.monotonic() + context.deadline(item.size)
    draft.write(
        part10.file_meta(
            sop_class_uid=item.sop_class_uid,
            sop_instance_uid=item.sop_instance_uid,
            transfer_syntax=item.transfer_syntax,
        )
    )
    digest = hashlib.sha256()
    for block in _stored(item):
        _look_up(context, end)
        digest.update(block)
        draft.write(block)
        context.progress(len(block))
    if digest.hexdigest() != item.sha256:
        detail = "The stored object's bytes are not those that were received; run verify_ledger."
        raise _Trouble(Outcome.DATA_ERROR, detail)
    draft.sync()
    _heed_stop(context)  # it may have taken minutes, and the item may be another's by now


def _heed_stop(context: Context) -> None:
    if context.abort():
        raise _Trouble(Outcome.NOT_SENT, "The writing was stopped on our side.")


def _look_up(context: Context, end: float) -> None:
    _heed_stop(context)
    if time.monotonic() > end:
        detail = "The object took longer than its deadline allows; nothing was written."
        raise _Trouble(Outcome.RETRY, detail, "transport")


def _stored(item: Outgoing) -> Iterator[bytes]:
    """Yield the stored data set in blocks."""
    try:
        with item.open() as file:
            file.seek(item.offset)
            while block := file.read(BLOCK_BYTES):
                yield block
    except FileNotFoundError as error:
        detail = "The stored object is missing; run verify_ledger."
        raise _Trouble(Outcome.DATA_ERROR, detail) from error
    except OSError as error:
        detail = f"The stored object cannot be read at the moment: {error.strerror}."
        raise _Trouble(Outcome.RETRY, detail) from error


def _holds(item: Outgoing) -> Callable[[int], bool]:
    """Return a question to an open file: does it hold the same data set in the same syntax?"""

    def is_same(descriptor: int) -> bool:
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return folder_confirm.holds(item, file)

    return is_same


KIND = Kind(
    name="folder",
    label="Folder",
    form=FolderForm,
    sender=FolderSender,
    endpoint_fields=("path",),
)
