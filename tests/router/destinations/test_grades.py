"""Which proof each kind can give, and what is said where it cannot."""

import pytest

from router.destinations import KINDS, grades
from router.destinations.base import Committing, Confirming

NEEDED: dict[str, dict[str, object]] = {
    "dicom": {"host": "pacs", "port": 104, "ae_title": "PACS"},
    "folder": {"path": "/srv/out"},
    "s3": {"bucket": "images", "access_key_env": "A", "secret_key_env": "B"},
    "stow": {"url": "https://pacs.example/dicom-web"},
    "webhook": {"url": "https://ris.example/hook", "secret_env": "C"},
}
POSSIBLE = {
    "dicom": ("accepted", "verified", "committed"),
    "folder": ("accepted", "verified"),
    "s3": ("accepted", "verified"),
    "stow": ("accepted", "verified"),
    "webhook": ("accepted",),
}
PAIRS = [(kind, grade) for kind in POSSIBLE for grade in (*grades.GRADES, "certain")]


def test_every_kind_is_here() -> None:
    assert set(KINDS) == set(POSSIBLE) == set(NEEDED)


@pytest.mark.parametrize(("kind", "grade"), PAIRS)
def test_a_kind_takes_what_it_can_prove_and_says_so_of_the_rest(kind: str, grade: str) -> None:
    form = KINDS[kind].form({**NEEDED[kind], "proof": grade})
    assert form.is_valid() == (grade in POSSIBLE[kind]), form.errors
    if not form.is_valid():
        (message,) = form.errors["proof"]
        assert (
            f"{grade} is not possible here; {' or '.join(POSSIBLE[kind])} is expected." in message
        )


@pytest.mark.parametrize("kind", KINDS)
def test_who_says_nothing_needs_an_answer_only(kind: str) -> None:
    form = KINDS[kind].form(NEEDED[kind])
    assert form.is_valid(), form.errors
    assert form.cleaned_data["proof"] == "accepted"
    assert not {key for key in form.export() if key.startswith(("proof", "commit_"))}
    assert grades.required({}) == "accepted"


@pytest.mark.parametrize("kind", KINDS)
def test_a_sender_can_do_what_its_form_allows(kind: str) -> None:
    form = KINDS[kind].form(NEEDED[kind])
    assert form.is_valid(), form.errors
    sender = KINDS[kind].sender(form.cleaned_data)
    assert isinstance(sender, Confirming) == ("verified" in POSSIBLE[kind])
    assert isinstance(sender, Committing) == ("committed" in POSSIBLE[kind])


def test_a_webhook_has_no_keys_of_proofs_that_it_cannot_give() -> None:
    assert not {"proof_after", "proof_retry", "proof_resends"} & set(
        KINDS["webhook"].form.base_fields
    )
