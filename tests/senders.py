"""A storage SCU of our own: data set bytes leave as they lie in the file, in their own syntax.

Written from PS3.8 9.3 and PS3.7 9.3.1, independent of pynetdicom and of the product's network
code, so that it can send what other tools refuse (HTJ2K, files without file meta, wrong UIDs) and
what no tool should send (cut, lying and malformed messages).
"""

import socket
import ssl
import struct
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydicom import dcmread

from router.dicom import part10

APPLICATION_CONTEXT = b"1.2.840.10008.3.1.1.1"
VERIFICATION = "1.2.840.10008.1.1"
IMPLICIT_LITTLE = "1.2.840.10008.1.2"
RELEASE_RQ = bytes.fromhex("0500 00000004 00000000")
ABORT = bytes.fromhex("0700 00000004 00000000")
_UIDS = ["SOPClassUID", "SOPInstanceUID"]


@dataclass(frozen=True)
class RawObject:
    """A data set as bytes with what its command says about it."""

    data: bytes
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax: str
    path: Path | None = None


@dataclass(frozen=True)
class Sent:
    """What became of one object. `status` is None when no answer came, `error` says why."""

    item: RawObject
    status: int | None
    comment: str = ""
    error: str = ""


class AssociationRejected(Exception):
    """A-ASSOCIATE-RJ: result, source, reason (PS3.8 9.3.4)."""

    def __init__(self, answer: tuple[int, int, int]) -> None:
        super().__init__(answer)
        self.answer = answer


class ConnectionEnded(Exception):
    """The peer closed or aborted."""


class RawAssociation:
    """An association as requestor, one operation at a time."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        contexts: Sequence[tuple[str, Sequence[str]]],
        called_ae: str = "DICOMROUTER",
        calling_ae: str = "RAWSENDER",
        roles: Sequence[tuple[str, int, int]] = (),
        timeout: float = 30.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.socket = socket.create_connection((host, port), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self.socket = _secured(self.socket, tls, host)
        self.proposed = {2 * n + 1: context for n, context in enumerate(contexts)}
        self.results: dict[int, int] = {}
        self.accepted: dict[int, str] = {}
        self.roles: dict[str, tuple[int, int]] = {}
        self.peer_maximum = 16384
        self._message_id = 0
        try:
            self.socket.sendall(_associate_rq(called_ae, calling_ae, self.proposed, roles))
            self._read_associate_answer()
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.release()
        self.socket.close()

    def context_for(self, abstract_syntax: str, transfer_syntax: str) -> int | None:
        for number, (abstract, _) in self.proposed.items():
            if abstract == abstract_syntax and self.accepted.get(number) == transfer_syntax:
                return number
        return None

    def echo(self) -> int:
        context = self.context_for(VERIFICATION, IMPLICIT_LITTLE) or 1
        elements = [(0x0002, _uid(VERIFICATION)), (0x0100, _us(0x0030)), (0x0800, _us(0x0101))]
        self.send_pdata(context, self.command(elements), is_command=True)
        return self.read_response()[0]

    def store(self, item: RawObject, *, fragment: int | None = None) -> tuple[int, str]:
        """Status and Error Comment of one C-STORE."""
        context = self.context_for(item.sop_class_uid, item.transfer_syntax)
        if context is None:
            raise LookupError(f"no context for {item.sop_class_uid} in {item.transfer_syntax}")
        self.begin_store(context, item.sop_class_uid, item.sop_instance_uid)
        self.send_pdata(context, item.data, is_command=False, fragment=fragment)
        return self.read_response()

    def begin_store(self, context: int, sop_class_uid: str, sop_instance_uid: str) -> None:
        elements = [
            (0x0002, _uid(sop_class_uid)),
            (0x0100, _us(0x0001)),
            (0x0700, _us(0)),
            (0x0800, _us(0x0000)),
            (0x1000, _uid(sop_instance_uid)),
        ]
        self.send_pdata(context, self.command(elements), is_command=True)

    def command(self, elements: list[tuple[int, bytes]]) -> bytes:
        self._message_id += 1
        body = b"".join(
            struct.pack("<HHI", 0, number, len(value)) + value
            for number, value in sorted([*elements, (0x0110, _us(self._message_id))])
        )
        return struct.pack("<HHII", 0, 0, 4, len(body)) + body

    def send_pdata(
        self,
        context: int,
        data: bytes,
        *,
        is_command: bool,
        fragment: int | None = None,
        is_last: bool = True,
    ) -> None:
        size = fragment or min(self.peer_maximum or 131072, 131072) - 6
        for start in range(0, max(len(data), 1), size):
            piece = data[start : start + size]
            last = is_last and start + size >= len(data)
            control = (1 if is_command else 0) | (2 if last else 0)
            item = struct.pack(">IBB", len(piece) + 2, context, control) + piece
            self.socket.sendall(struct.pack(">BxI", 4, len(item)) + item)

    def read_response(self) -> tuple[int, str]:
        elements = self.read_command()
        status = int.from_bytes(elements[0x0900], "little")
        return status, elements.get(0x0902, b"").decode("ascii").rstrip(" ")

    def read_command(self) -> dict[int, bytes]:
        kind, body = self.read_pdu()
        if kind != 4:
            raise ConnectionEnded(f"PDU type {kind} instead of an answer")
        message = body[6:]
        elements, at = {}, 0
        while at < len(message):
            _, number, length = struct.unpack_from("<HHI", message, at)
            elements[number] = message[at + 8 : at + 8 + length]
            at += 8 + length
        return elements

    def read_pdu(self) -> tuple[int, bytes]:
        kind, length = struct.unpack(">BxI", self._read(6))
        return kind, self._read(length)

    def release(self) -> None:
        self.socket.sendall(RELEASE_RQ)
        kind, _ = self.read_pdu()
        self.socket.close()
        if kind != 6:
            raise ConnectionEnded(f"PDU type {kind} instead of A-RELEASE-RP")

    def abort(self) -> None:
        self.socket.sendall(ABORT)
        self.socket.close()

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            try:
                piece = self.socket.recv(size - len(data))
            except ConnectionResetError as error:
                raise ConnectionEnded("reset") from error
            if not piece:
                raise ConnectionEnded("closed")
            data += piece
        return bytes(data)

    def _read_associate_answer(self) -> None:
        kind, body = self.read_pdu()
        if kind == 3:
            raise AssociationRejected((body[1], body[2], body[3]))
        if kind != 2:
            raise ConnectionEnded(f"PDU type {kind} instead of A-ASSOCIATE-AC")
        for item, value in _items(body[68:]):
            if item == 0x21:
                self._take_result(value)
            elif item == 0x50:
                self._take_user_information(value)

    def _take_result(self, value: bytes) -> None:
        self.results[value[0]] = value[2]
        if value[2] == 0:
            ((_, syntax),) = _items(value[4:])
            self.accepted[value[0]] = syntax.decode("ascii").rstrip("\0")

    def _take_user_information(self, value: bytes) -> None:
        for item, content in _items(value):
            if item == 0x51:
                self.peer_maximum = int.from_bytes(content, "big")
            elif item == 0x54:
                size = int.from_bytes(content[:2], "big")
                uid = content[2 : 2 + size].decode("ascii")
                self.roles[uid] = (content[2 + size], content[3 + size])


def _secured(sock: socket.socket, tls: ssl.SSLContext, host: str) -> socket.socket:
    try:
        return tls.wrap_socket(sock, server_hostname=host)
    except BaseException:
        sock.close()
        raise


def read_raw(path: Path) -> RawObject:
    """A file's data set bytes and its UIDs, from the data set itself."""
    with path.open("rb") as file:
        meta = part10.read_meta(file)
        file.seek(meta.offset)
        data = file.read()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old files carry what is no UID
        ds = dcmread(path, force=True, specific_tags=_UIDS, stop_before_pixels=True)
        sop_class_uid, sop_instance_uid = (str(ds.get(keyword) or "") for keyword in _UIDS)
    return RawObject(
        data=data,
        sop_class_uid=sop_class_uid,
        sop_instance_uid=sop_instance_uid,
        transfer_syntax=meta.transfer_syntax,
        path=path,
    )


def send_raw(
    host: str,
    port: int,
    files: Iterable[Path | RawObject],
    *,
    called_ae: str = "DICOMROUTER",
    calling_ae: str = "RAWSENDER",
) -> list[Sent]:
    """Send files over as few associations as their contexts allow; one answer a file, in order."""
    items = [file if isinstance(file, RawObject) else read_raw(file) for file in files]
    sent: list[Sent] = []
    for group in _groups(items):
        contexts = [(uid, [syntax]) for uid, syntax in _pairs(group)]
        with RawAssociation(
            host, port, contexts=contexts, called_ae=called_ae, calling_ae=calling_ae
        ) as assoc:
            sent += [_send_one(assoc, item) for item in group]
    return sent


def _send_one(assoc: RawAssociation, item: RawObject) -> Sent:
    try:
        status, comment = assoc.store(item)
    except LookupError as error:
        return Sent(item, None, error=str(error))
    return Sent(item, status, comment)


def _pairs(items: Iterable[RawObject]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((item.sop_class_uid, item.transfer_syntax) for item in items))


def _groups(items: Sequence[RawObject]) -> list[list[RawObject]]:
    groups: list[list[RawObject]] = [[]]
    for item in items:
        if len(_pairs([*groups[-1], item])) > 128:
            groups.append([])
        groups[-1].append(item)
    return groups if groups[0] else []


def _items(data: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 0
    while at < len(data):
        kind, length = struct.unpack_from(">BxH", data, at)
        found.append((kind, data[at + 4 : at + 4 + length]))
        at += 4 + length
    return found


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def _associate_rq(
    called_ae: str,
    calling_ae: str,
    contexts: dict[int, tuple[str, Sequence[str]]],
    roles: Sequence[tuple[str, int, int]],
) -> bytes:
    parts = [_item(0x10, APPLICATION_CONTEXT)]
    for number, (abstract, syntaxes) in contexts.items():
        items = _item(0x30, abstract.encode("ascii"))
        items += b"".join(_item(0x40, syntax.encode("ascii")) for syntax in syntaxes)
        parts.append(_item(0x20, bytes((number, 0, 0, 0)) + items))
    user = _item(0x51, struct.pack(">I", 131072)) + _item(0x52, b"1.2.3.4.5")
    for uid, scu, scp in roles:
        raw = uid.encode("ascii")
        user += _item(0x54, struct.pack(">H", len(raw)) + raw + bytes((scu, scp)))
    parts.append(_item(0x50, user))
    head = struct.pack(">HH16s16s32x", 1, 0, _ae(called_ae), _ae(calling_ae))
    body = head + b"".join(parts)
    return struct.pack(">BxI", 1, len(body)) + body


def _ae(title: str) -> bytes:
    return title.encode("ascii").ljust(16)


def _uid(value: str) -> bytes:
    raw = value.encode("latin-1")
    return raw + b"\0" * (len(raw) % 2)


def _us(value: int) -> bytes:
    return value.to_bytes(2, "little")
