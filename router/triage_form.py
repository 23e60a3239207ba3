"""The form of triage: which group of failures is meant, what is to be done with it, and why."""

from typing import Any  # what Django's own forms take

from django import forms

from router.models import Destination
from router.services import triage


class TriageForm(forms.Form):
    """Which group of failures is meant and what is to be done with it, and why."""

    action = forms.ChoiceField(
        choices=[(key, key) for key in ("retry", "release", "exclude", "readdress")],
        widget=forms.HiddenInput(),
    )
    destination = forms.CharField(max_length=64, widget=forms.HiddenInput())
    state = forms.ChoiceField(
        choices=[(state.value, state.label) for state in triage.OPEN_FAILURES],
        widget=forms.HiddenInput(),
    )
    status = forms.RegexField(r"[0-9A-F]{4}\Z", required=False, widget=forms.HiddenInput())
    seen = forms.CharField(required=False, max_length=500, strip=False, widget=forms.HiddenInput())
    sop_class = forms.CharField(max_length=64, widget=forms.HiddenInput())
    transfer_syntax = forms.CharField(required=False, max_length=64, widget=forms.HiddenInput())
    to = forms.ChoiceField(
        required=False, label="Send them to", widget=forms.Select(attrs={"class": "select"})
    )
    why = forms.CharField(
        required=False,
        label="Reason",
        max_length=300,
        widget=forms.TextInput(attrs={"class": "input", "autocomplete": "off"}),
    )

    def __init__(self, data: Any, *, is_decided: bool) -> None:
        super().__init__(data)
        self._is_decided = is_decided
        places = Destination.objects.active().exclude(name=data.get("destination", ""))
        names = places.order_by("name").values_list("name", flat=True)
        self.fields["to"].choices = [("", "Choose…"), *((name, name) for name in names)]  # type: ignore[attr-defined]

    @property
    def names_a_group(self) -> bool:
        """Tell whether what the page filled in is whole, whatever the person typed."""
        return not set(self.errors) - {"to", "why"}

    @property
    def key(self) -> triage.Key:
        """Return the group that is meant."""
        given = self.cleaned_data
        return triage.Key(
            given["destination"],
            given["state"],
            int(given["status"], 16) if given["status"] else None,
            given["seen"],
            given["sop_class"],
            given["transfer_syntax"],
        )

    def clean(self) -> dict[str, Any]:
        """Demand a reason and a place where the action needs them, once it is decided."""
        given = super().clean() or self.cleaned_data
        action = given.get("action") if self._is_decided else None
        if action in {"exclude", "readdress"} and not given.get("why") and "why" not in self.errors:
            self.add_error("why", "A reason is expected; it is kept with the objects and audited.")
        if action == "readdress" and not given.get("to") and "to" not in self.errors:
            self.add_error("to", "One of the other destinations is expected.")
        return given
