"""A group of destinations as it is typed on its page; what the file would be refused for is said
by the configuration itself."""

from django import forms

from router.config.document import DEFAULT_BALANCE
from router.destinations.fields import duration_text
from router.models import Balance, DestinationGroup, GroupKind

YES = [("true", "yes"), ("false", "no")]


def _select(choices: list[tuple[str, str]]) -> forms.ChoiceField:
    widget = forms.Select(attrs={"class": "select"})
    return forms.ChoiceField(choices=choices, required=False, widget=widget)


def _text(longest: int) -> forms.CharField:
    widget = forms.TextInput(attrs={"class": "input", "autocomplete": "off"})
    return forms.CharField(max_length=longest, required=False, widget=widget)


class GroupForm(forms.Form):
    """The keys of a group, as text; `members` with commas, in their order."""

    kind = _select([(one.value, str(one.label)) for one in GroupKind])
    members = _text(2000)
    by = _select([(one.value, str(one.label)) for one in Balance])
    returns = _select(YES)
    patience = _text(16)
    enabled = _select(YES)

    @property
    def entry(self) -> dict[str, object]:
        """What the configuration file would say, without the name; of a form that is valid."""
        given = self.cleaned_data
        found: dict[str, object] = {"kind": given["kind"], "members": self._members()}
        if given["kind"] == GroupKind.BALANCE:
            found["by"] = given["by"] or DEFAULT_BALANCE
        elif given["returns"] == "false":
            found["return"] = False
        if given["patience"]:
            found["patience"] = given["patience"].strip()
        return found if given["enabled"] != "false" else {**found, "enabled": False}

    def _members(self) -> list[str]:
        return [one.strip() for one in self.cleaned_data["members"].split(",") if one.strip()]

    def place(self, path: str, message: str) -> bool:
        """Put a finding at its field; False where it is of none."""
        key = path.rpartition(".")[2].partition("[")[0].replace("return", "returns")
        if key not in self.fields:
            return False
        self.add_error(key, f"{message[:1].upper()}{message[1:]}.")
        return True


def initial(group: DestinationGroup | None) -> dict[str, object]:
    """Return what the form shows first."""
    row = group or DestinationGroup()
    return {
        "kind": row.kind,
        "members": ", ".join(row.members),
        "by": row.by or DEFAULT_BALANCE,
        "returns": "true" if row.returns else "false",
        "patience": duration_text(row.patience_seconds),
        "enabled": "true" if row.enabled else "false",
    }
