"""One bucket of an S3 store and the few requests that a destination makes of it.

An object is put whole or not at all: in one request, or as a multipart upload that is completed at
the end and aborted when anything goes wrong before. What goes wrong is a `Trouble`.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from router.destinations.base import Outgoing
from router.destinations.s3_answers import Mute, Peer, status_of
from router.destinations.s3_cargo import BLOCK, Cargo, Load, Part, Stretch

log = logging.getLogger(__name__)

CONTENT_TYPE = "application/dicom"
SHA256, SYNTAX = "sha256", "transfer-syntax"
"""What we write beside an object, so that it is known again without being read: the hash of its
data set, and the transfer syntax of it."""


class Taken(Exception):
    """The store refuses to replace what has the key already."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a store says of an object that it holds."""

    size: int
    etag: str
    checksum: str
    metadata: Mapping[str, str]
    encryption: str
    storage_class: str

    def is_file(self, cargo: Cargo) -> bool:
        """Whether the store's own digest is that of the file."""
        return self.size == cargo.size and (
            self.checksum == cargo.checksum or self.etag == cargo.etag
        )

    def is_marked(self, item: Outgoing) -> bool:
        """Whether it was written by us for the same data set in the same transfer syntax."""
        mark = self.metadata.get(SHA256), self.metadata.get(SYNTAX)
        return mark == (item.sha256, item.transfer_syntax) and self.size > item.size

    def may_hold(self, item: Outgoing) -> bool:
        """Whether nothing written beside it says that it is another data set."""
        return self.metadata.get(SHA256, item.sha256) == item.sha256 and self.size > item.size


@dataclass(frozen=True, slots=True)
class Manner:
    """How objects are written: headers of each, whether the store is to check SHA-256 and to
    refuse to replace."""

    headers: Mapping[str, str]
    sha256: bool
    refuses: bool


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket, ready to be asked."""

    client: Any  # boto3 makes the methods of a client when the program runs
    name: str
    peer: Peer
    manner: Manner

    def probe(self) -> str:
        """Ask whether the bucket is there; return its region as far as the store says it.

        Raises:
            Trouble: it is not, or cannot be asked.
        """
        with self._asked():
            answer = self.client.head_bucket(Bucket=self.name)
        headers = answer["ResponseMetadata"]["HTTPHeaders"]
        return str(headers.get("x-amz-bucket-region", ""))

    def look(self, key: str) -> Found | None:
        """Return what is said of the object `key`, None when there is none.

        Raises:
            Trouble: it cannot be asked.
        """
        wanted = {"ChecksumMode": "ENABLED"} if self.manner.sha256 else {}
        try:
            answer = self.client.head_object(Bucket=self.name, Key=key, **wanted)
        except (BotoCoreError, ClientError) as error:
            if isinstance(error, ClientError) and status_of(error) == HTTPStatus.NOT_FOUND:
                return None
            raise self.peer.judge(error) from error
        return Found(
            size=int(self._told(answer, "ContentLength")),
            etag=self._told(answer, "ETag").strip('"'),
            checksum=str(answer.get("ChecksumSHA256", "")),
            metadata=answer.get("Metadata", {}),
            encryption=str(answer.get("ServerSideEncryption", "")),
            storage_class=str(answer.get("StorageClass", "")),
        )

    def put(self, key: str, load: Load) -> None:
        """Store a load as the object `key`, whole.

        Raises:
            Taken: the store refuses to replace an object. Trouble: it was not stored.
        """
        mark = {SHA256: load.item.sha256, SYNTAX: load.item.transfer_syntax}
        headers = {"ContentType": CONTENT_TYPE, "Metadata": mark, **self.manner.headers}
        if len(load.cargo.parts) > 1:
            self._put_parts(key, load, headers)
            return
        [part] = load.cargo.parts
        given = {"Key": key, **self._checks(part), **headers, **self._if_free()}
        self._give(self.client.put_object, Stretch(load, part), given, decides=True)

    def put_small(self, key: str, content: bytes) -> None:
        """Store a few bytes as an object is stored.

        Raises:
            Taken, Trouble.
        """
        md5 = hashlib.md5(content, usedforsecurity=False).digest()
        part = Part(1, 0, len(content), md5, hashlib.sha256(content).digest())
        given = {**self._checks(part), **self.manner.headers, **self._if_free()}
        with self._asked():
            self.client.put_object(Bucket=self.name, Key=key, Body=content, **given)

    def read(self, key: str) -> Iterator[bytes]:
        """Return the content of an object, block by block.

        Raises:
            Trouble: it cannot be had.
        """
        with self._asked():
            answer = self.client.get_object(Bucket=self.name, Key=key)
            with closing(answer["Body"]) as body:
                yield from body.iter_chunks(BLOCK)

    def delete(self, key: str) -> None:
        """Remove an object.

        Raises:
            Trouble: it may be there still.
        """
        with self._asked():
            self.client.delete_object(Bucket=self.name, Key=key)

    def _put_parts(self, key: str, load: Load, headers: Mapping[str, Any]) -> None:
        self._tidy(key)
        upload = {"Key": key, "UploadId": self._begin(key, headers)}
        try:
            parts = [self._give_part(Stretch(load, p), p, upload) for p in load.cargo.parts]
            load.watch.look_up()
        except BaseException:
            self._abort(upload)
            raise
        self._complete(upload, parts)

    def _checks(self, part: Part) -> dict[str, str]:
        """Return the headers that have the store check what a request holds."""
        given = {"ContentMD5": part.content_md5}
        if self.manner.sha256:
            given |= {"ChecksumSHA256": part.checksum, "ChecksumAlgorithm": "SHA256"}
        return given

    def _if_free(self) -> dict[str, str]:
        return {"IfNoneMatch": "*"} if self.manner.refuses else {}

    def _give(
        self,
        call: Callable[..., Any],
        stretch: Stretch,
        given: Mapping[str, Any],
        *,
        decides: bool = False,
    ) -> str:
        """Send a stretch and return its ETag. With `decides` the object is stored by it.

        Raises:
            Taken, Trouble; and whatever ended the reading of the stretch.
        """
        try:
            length = len(stretch)
            answer = call(Bucket=self.name, Body=stretch, ContentLength=length, **given)
            return self._told(answer, "ETag", was_whole=decides)
        except (BotoCoreError, ClientError) as error:
            if stretch.raised is not None:
                raise stretch.raised from error
            raise self._verdict(error, was_whole=decides and stretch.was_whole) from error

    def _give_part(self, stretch: Stretch, part: Part, upload: Mapping[str, str]) -> dict[str, Any]:
        given = {"PartNumber": part.number, **self._checks(part), **upload}
        etag = self._give(self.client.upload_part, stretch, given)
        kept = {"ETag": etag, "PartNumber": part.number}
        return kept | ({"ChecksumSHA256": part.checksum} if self.manner.sha256 else {})

    def _begin(self, key: str, headers: Mapping[str, Any]) -> str:
        algorithm = {"ChecksumAlgorithm": "SHA256"} if self.manner.sha256 else {}
        with self._asked():
            answer = self.client.create_multipart_upload(
                Bucket=self.name, Key=key, **headers, **algorithm
            )
        return self._told(answer, "UploadId")

    def _complete(self, upload: Mapping[str, str], parts: list[dict[str, Any]]) -> None:
        """Make the parts an object.

        Without an answer it is not aborted: the store may be putting it together right now. The
        next try finds the object, or the upload that was left.
        """
        given = {"MultipartUpload": {"Parts": parts}, **self._if_free(), **upload}
        try:
            answer = self.client.complete_multipart_upload(Bucket=self.name, **given)
        except (BotoCoreError, ClientError) as error:
            if isinstance(error, ClientError) and status_of(error) < 500:
                self._abort(upload)
            raise self._verdict(error, was_whole=True) from error
        self._told(answer, "ETag", was_whole=True)

    def _tidy(self, key: str) -> None:
        """Abort what an earlier try left of an upload of `key`, one that was cut or killed."""
        pages = self.client.get_paginator("list_multipart_uploads")
        try:
            for page in pages.paginate(Bucket=self.name, Prefix=key):
                for left in page.get("Uploads", ()):
                    if left["Key"] == key:
                        self._abort({"Key": key, "UploadId": left["UploadId"]})
        except (BotoCoreError, ClientError) as error:
            # Our credentials may not be allowed to list; the upload itself does not need it.
            log.warning("s3_uploads_not_listed", extra={"why": type(error).__name__})

    def _abort(self, upload: Mapping[str, str]) -> None:
        try:
            self.client.abort_multipart_upload(Bucket=self.name, **upload)
        except (BotoCoreError, ClientError) as error:
            # The next try finds it; the store's own rule for old uploads is the last resort.
            log.warning("s3_upload_left", extra={"why": type(error).__name__})

    def _told(self, answer: Mapping[str, Any], name: str, *, was_whole: bool = False) -> str:
        """Return what a good answer must tell; one that was cut does not.

        Raises:
            Trouble: it does not tell it.
        """
        if answer.get(name) is None:
            raise self.peer.judge(Mute(), was_whole=was_whole)
        return str(answer[name])

    def _verdict(self, error: BotoCoreError | ClientError, *, was_whole: bool) -> Exception:
        if isinstance(error, ClientError) and status_of(error) == HTTPStatus.PRECONDITION_FAILED:
            return Taken()
        return self.peer.judge(error, was_whole=was_whole)

    @contextmanager
    def _asked(self) -> Iterator[None]:
        try:
            yield
        except (BotoCoreError, ClientError) as error:
            raise self._verdict(error, was_whole=False) from error
