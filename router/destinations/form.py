"""The settings of a destination as a form: the keys of its YAML mapping and their rules.

One form serves the configuration file and the console. It knows one kind's keys, not the name or
state of a destination, and it saves nothing.
"""

from collections.abc import Mapping

from django import forms

from router.destinations.fields import (
    URGENCIES,
    DurationField,
    DurationsField,
    FlagField,
    OutcomesField,
)
from router.destinations.grades import ACCEPTED, GradeField
from router.destinations.windows import WindowsField

RETRY = ["30s", "1m", "5m", "15m", "30m"]
PROOF_RETRY = ["1m", "5m", "15m", "1h"]


class DestinationForm(forms.Form):
    """The keys that every kind takes. `cleaned_data` is JSON-safe and canonical, defaults
    filled."""

    associations = forms.IntegerField(min_value=1, max_value=16, initial=2, required=False)
    retry = DurationsField(initial=RETRY)
    outcomes = OutcomesField()
    objects_per_second = forms.FloatField(min_value=0.01, max_value=100_000, required=False)
    bytes_per_second = forms.IntegerField(min_value=1024, max_value=1 << 40, required=False)
    windows = WindowsField()
    urgency = forms.ChoiceField(
        choices=[(one, one) for one in URGENCIES], initial="normal", required=False
    )
    ordered = FlagField(initial=False)
    alarm_age = DurationField(least="1m", most="30d", initial=None)
    proof = GradeField(ACCEPTED, why="The far end cannot be asked.")
    proof_after = DurationField(initial="30s", most="1d")
    proof_retry = DurationsField(initial=PROOF_RETRY)
    proof_resends = forms.IntegerField(min_value=0, max_value=10, initial=3, required=False)

    def __init__(self, data: Mapping[str, object] | None = None, **options: object) -> None:
        if data is not None:
            data = self._defaults() | {k: v for k, v in data.items() if v not in (None, "")}
        super().__init__(data, **options)  # type: ignore[arg-type]  # Form's own keywords

    @classmethod
    def _defaults(cls) -> dict[str, object]:
        fields = cls.base_fields.items()
        return {name: field.initial for name, field in fields if field.initial is not None}

    def export(self) -> dict[str, object]:
        """Return the shortest YAML mapping that gives these settings again (valid forms only)."""
        usual = {name: self.fields[name].clean(v) for name, v in self._defaults().items()}
        return {
            name: value
            for name, value in self.cleaned_data.items()
            if value not in ("", None, {}, []) and value != usual.get(name)
        }
