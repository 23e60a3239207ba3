"""Proof grades: how surely a far end has what it took, and which of them a kind can reach.

`accepted`: it answered success. `verified`: asked later, it has the object. `committed`: it took
the responsibility to keep it (storage commitment, PS3.4 Annex J). Knows the words and their order,
and proves nothing.
"""

from collections.abc import Mapping

from django import forms

ACCEPTED, VERIFIED, COMMITTED = "accepted", "verified", "committed"
GRADES = (ACCEPTED, VERIFIED, COMMITTED)
"""From the weakest to the strongest."""
NO_COMMITMENT = "Storage commitment is asked of dicom destinations."
LABELS = {
    ACCEPTED: "accepted: it answered success",
    VERIFIED: "verified: asked later, it has it",
    COMMITTED: "committed: it reports storage commitment",
}


def required(settings: Mapping[str, object]) -> str:
    """Return the grade that a destination's settings ask for."""
    return str(settings.get("proof") or ACCEPTED)


class GradeField(forms.ChoiceField):
    """The grade that a destination needs, one of those that its kind can reach.

    `why` says what the kind lacks for the others.
    """

    def __init__(self, *possible: str, why: str = "") -> None:
        super().__init__(
            choices=[(grade, LABELS[grade]) for grade in possible],
            initial=ACCEPTED,
            required=False,
        )
        listed = " or ".join(possible)
        self.error_messages["invalid_choice"] = (
            f"%(value)s is not possible here; {listed} is expected. {why}".rstrip()
        )
