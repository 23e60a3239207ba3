"""UIDs: what may be handled, what conforms, and what transfer syntaxes mean."""

import pytest

from router.dicom import uids


@pytest.mark.parametrize("uid", ["1", "1.2.840.10008.1.2", "0.0", "9" * 64])
def test_accepts_conformant_uids(uid: str) -> None:
    assert uids.valid_uid(uid)
    assert uids.conformant_uid(uid)


@pytest.mark.parametrize("uid", ["1.02", "00.1"])
def test_leading_zeros_are_valid_but_not_conformant(uid: str) -> None:
    assert uids.valid_uid(uid)
    assert not uids.conformant_uid(uid)


@pytest.mark.parametrize(
    "uid",
    [
        "",
        ".",
        "1.",
        ".1",
        "1..2",
        "1.2\0",
        "1.2\n",
        "../../x",
        "/1",
        "1.2 ",
        "1" * 65,
        "\u0661.2",
        "<script>",
    ],
)
def test_refuses_what_is_no_uid(uid: str) -> None:
    assert not uids.valid_uid(uid)


@pytest.mark.parametrize(
    ("syntax", "implicit", "big", "deflated", "encapsulated", "uncompressed"),
    [
        (uids.IMPLICIT_LE, True, False, False, False, True),
        (uids.EXPLICIT_LE, False, False, False, False, True),
        (uids.EXPLICIT_BE, False, True, False, False, True),
        (uids.DEFLATED_LE, False, False, True, False, True),
        (uids.GE_PRIVATE_IMPLICIT, True, False, False, False, True),
        (uids.DEFLATED_IMAGE_FRAME, False, False, False, True, False),
        ("1.2.840.10008.1.2.4.90", False, False, False, True, False),
        ("1.2.840.10008.1.2.4.95", False, False, True, False, False),
        ("1.2.3.4.5", False, False, False, True, False),
    ],
)
def test_properties_of_transfer_syntaxes(
    syntax: str, implicit: bool, big: bool, deflated: bool, encapsulated: bool, uncompressed: bool
) -> None:
    assert uids.is_implicit(syntax) is implicit
    assert uids.is_big_endian(syntax) is big
    assert uids.is_deflated(syntax) is deflated
    assert uids.is_encapsulated(syntax) is encapsulated
    assert uids.is_uncompressed(syntax) is uncompressed


def test_names_what_it_knows() -> None:
    assert uids.name("1.2.840.10008.5.1.4.1.1.2") == "CT Image Storage"
    assert uids.name("1.2.3") == "1.2.3"
    assert uids.is_storage_class("1.2.840.10008.5.1.4.1.1.2")
    assert not uids.is_storage_class("1.2.840.10008.1.1")
    assert uids.is_known_transfer_syntax(uids.DEFLATED_IMAGE_FRAME)
    assert not uids.is_known_transfer_syntax("1.2.3")
