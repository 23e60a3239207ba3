"""Framing of multipart bodies, held against Python's own parser of messages."""

from email import message_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.dicom.multipart import Framing, MalformedMultipart, boundary_of, first_part

FRAMING = Framing("0123456789abcdef")


def body_of(parts: list[bytes]) -> bytes:
    framed = [FRAMING.before + part + FRAMING.after for part in parts]
    return b"".join(framed) + FRAMING.end


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=4))
def test_another_parser_reads_what_is_framed(parts: list[bytes]) -> None:
    body = body_of(parts)
    assert FRAMING.length(len(part) for part in parts) == len(body)
    head = f"Content-Type: {FRAMING.content_type}\r\n\r\n".encode()
    message = message_from_bytes(head + body)
    assert message.get_content_type() == "multipart/related"
    assert message.get_param("type") == "application/dicom"
    found = message.get_payload()
    assert isinstance(found, list)
    assert len(found) == len(parts)
    assert {one.get_content_type() for one in found} == {"application/dicom"}  # type: ignore[union-attr]


@given(st.binary(max_size=400), st.integers(1, 50))
def test_the_first_part_comes_out_whatever_the_pieces(part: bytes, size: int) -> None:
    body = b"preamble\r\n" + body_of([part, b"another"])
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    assert b"".join(first_part(pieces, FRAMING.boundary)) == part


@pytest.mark.parametrize("length", [0, 10, 30, 60, 75])
def test_a_body_that_ends_early_is_none(length: int) -> None:
    body = body_of([b"x" * 20])
    with pytest.raises(MalformedMultipart):
        list(first_part([body[:length]], FRAMING.boundary))


def test_a_head_without_an_end_is_not_kept() -> None:
    pieces = (b"--0123456789abcdef\r\n" + b"x" * 4096 for _ in range(1000))
    with pytest.raises(MalformedMultipart):
        list(first_part(pieces, FRAMING.boundary))
    assert next(pieces, None) is not None


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        (FRAMING.content_type, FRAMING.boundary),
        ('multipart/related; boundary="a b"; type="application/dicom"', "a b"),
        ("Multipart/Related;BOUNDARY=x;type=y", "x"),
        ("multipart/related", None),
        ("application/dicom; boundary=x", None),
    ],
)
def test_finds_the_boundary(content_type: str, boundary: str | None) -> None:
    assert boundary_of(content_type) == boundary
