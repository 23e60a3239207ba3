"""Forms of the console: what people type, cleaned; and the filters that stand in an address.

A filter form never refuses a page: what it cannot read it leaves out and says so beside the field.
"""

from datetime import date, timedelta
from typing import Any

from django import forms
from django.contrib.auth.forms import AuthenticationForm
from django.core.exceptions import ValidationError
from django.db.models import Exists, OuterRef, Q

from router.config.entry import NAME
from router.models import (
    AuditEvent,
    Decision,
    DecisionOutcome,
    Destination,
    HourCount,
    ItemState,
    Job,
    Priority,
    ProofState,
    RoutingMark,
    Rule,
    Series,
    Source,
    Study,
    User,
)
from router.models.jobs import JobItemQuerySet
from router.models.studies import StudyQuerySet, begins
from router.services import clock, secrets
from router.services.header_text import searchable
from router.services.visibility import sees_patients, visible_items, visible_studies

# Any in this module: what Django's own forms take.

Choices = list[tuple[str, str]]


class LoginForm(AuthenticationForm):
    """Name and password of a person; accounts for programs have tokens instead."""

    error_messages = {
        "invalid_login": "The user name or the password is wrong. Check both and try again.",
        "inactive": "This account is disabled. Ask an administrator to enable it.",
        "tokens_only": "This account is for programs: it uses tokens and cannot sign in here.",
        "no_role": "This account has no role yet. Ask an administrator to give it one.",
    }

    def confirm_login_allowed(self, user: User) -> None:
        """Refuse accounts that are disabled, without a role, or for programs."""
        super().confirm_login_allowed(user)
        if user.role is None:
            raise ValidationError(self.error_messages["no_role"], code="no_role")
        if not user.role.can_sign_in:
            raise ValidationError(self.error_messages["tokens_only"], code="tokens_only")


class SecretForm(forms.Form):
    """A secret to be stored; what was typed as its value is never shown again."""

    name = forms.CharField(
        max_length=64,
        widget=forms.TextInput(attrs={"class": "input", "autocomplete": "off"}),
    )
    value = forms.CharField(
        max_length=secrets.MOST_CHARACTERS,
        strip=False,
        widget=forms.PasswordInput(attrs={"class": "input", "autocomplete": "new-password"}),
    )

    def clean_name(self) -> str:
        """Refuse what no configuration could name."""
        name: str = self.cleaned_data["name"]
        if not NAME.match(name):
            raise ValidationError("A name of 1 to 64 of A-Z a-z 0-9 _ - is expected.")
        return name

    def clean_value(self) -> str:
        """Refuse what is no single line."""
        value: str = self.cleaned_data["value"]
        if not value.isprintable():
            raise ValidationError("One line of printable characters is expected.")
        return value


def _date_input() -> forms.DateInput:
    return forms.DateInput(format="%Y-%m-%d", attrs={"type": "date", "class": "input input-sm"})


def _select() -> forms.Select:
    return forms.Select(attrs={"class": "select select-sm"})


def _names(first: str, values: Any) -> Choices:
    return [("", first), *[(value, value) for value in values]]


class FilterForm(forms.Form):
    """A form in an address; ``active`` lists what is set, for the chips above a table."""

    def __init__(self, data: Any, *, user: User) -> None:
        super().__init__(data)
        self.user = user
        self.offer()
        self.is_valid()

    def offer(self) -> None:
        """Fill the choices."""

    def offer_origins(self) -> None:
        """Fill ``modality`` and ``source`` with what occurs and what the user may see."""
        limits = self.user.limits()
        # The counts know every modality that came, in a hundredth of the rows.
        occurring = HourCount.objects.exclude(modality="").values_list("modality", flat=True)
        modalities = limits.get("modalities") or sorted(occurring.distinct().order_by()[:200])
        sources = limits.get("sources") or sorted(Source.objects.values_list("name", flat=True))
        self.fields["modality"].choices = _names("Any", modalities)  # type: ignore[attr-defined]
        self.fields["source"].choices = _names("Any", sources)  # type: ignore[attr-defined]

    def value(self, name: str) -> Any:
        """Return a cleaned value, or None where nothing (readable) is given."""
        return self.cleaned_data.get(name) or None

    @property
    def active(self) -> list[tuple[str, str, str]]:
        """Return name, label and words of each filter in force."""
        return [
            (name, str(field.label), self._words(name, field))
            for name, field in self.fields.items()
            if self.value(name)
        ]

    def _words(self, name: str, field: forms.Field) -> str:
        value = self.value(name)
        if isinstance(field, forms.ChoiceField):
            return str(dict(field.choices).get(value, value))  # type: ignore[arg-type] # a list here
        return value.isoformat() if isinstance(value, date) else str(value)


class StudyFilter(FilterForm):
    """Filters of the study list. The search words come from the session, not from the address."""

    date_from = forms.DateField(required=False, label="Study date from", widget=_date_input())
    date_to = forms.DateField(required=False, label="to", widget=_date_input())
    modality = forms.ChoiceField(required=False, label="Modality", widget=_select())
    source = forms.ChoiceField(required=False, label="Source", widget=_select())
    show = forms.ChoiceField(
        required=False,
        label="Show",
        choices=[
            ("", "All studies"),
            ("quarantined", "With quarantined objects"),
            ("unmatched", "No rule took an object"),
        ],
        widget=_select(),
    )

    def offer(self) -> None:
        """Offer the modalities and sources that occur and that the user may see."""
        self.offer_origins()

    def studies(self, words: str) -> StudyQuerySet:
        """Return the visible studies that match the filters and the search words."""
        studies = visible_studies(self.user)
        if words:
            studies = studies.filter(_named(words, clear=sees_patients(self.user)))
        if self.value("date_from"):
            studies = studies.filter(study_date__gte=f"{self.value('date_from'):%Y%m%d}")
        if self.value("date_to"):
            studies = studies.filter(study_date__lte=f"{self.value('date_to'):%Y%m%d}")
        if self.value("source"):
            studies = studies.filter(source=self.value("source"))
        if self.value("modality"):
            inside = Series.objects.filter(study=OuterRef("pk"), modality=self.value("modality"))
            studies = studies.filter(Exists(inside))
        return self._of_interest(studies)

    def _of_interest(self, studies: StudyQuerySet) -> StudyQuerySet:
        if self.value("show") == "quarantined":
            return studies.filter(quarantined_count__gt=0)
        if self.value("show") == "unmatched":
            held = Decision.objects.filter(outcome=DecisionOutcome.HELD)
            marks = RoutingMark.objects.filter(decision__in=held)
            return studies.filter(pk__in=marks.values("instance__study_id"))
        return studies


def _named(words: str, *, clear: bool) -> Q:
    """Accession, study UID or patient id exactly, or the beginning of one; or of a name."""
    text = words.strip()
    ways = [
        begins("accession_number", text),
        Q(study_instance_uid=text),
        Q(series__series_instance_uid=text),
        Q(instances__sop_instance_uid=text),
    ]
    if text.replace(".", "").isdigit() and "." in text:
        ways.append(begins("study_instance_uid", text))
    if clear:
        ways.append(begins("patient_id", text))
        ways.append(begins("patient_name_search", searchable(text.replace(",", " "))))
    first, *others = (Study.objects.filter(way).values("pk") for way in ways)
    return Q(pk__in=first.union(*others))  # each way by its own index, which no OR would use


AGES: dict[str, tuple[str, timedelta]] = {
    "15m": ("Over 15 minutes", timedelta(minutes=15)),
    "1h": ("Over 1 hour", timedelta(hours=1)),
    "1d": ("Over 1 day", timedelta(days=1)),
    "7d": ("Over 7 days", timedelta(days=7)),
}


PROOFS = [
    ("proven", "Proven as needed"),
    ("open", "Not proven yet"),
    ("unconfirmed", "Unconfirmed"),
    ("failed", "Proof failed"),
]
_PROOF_STATES = {
    "open": [ProofState.WAITING, ProofState.ASKING, ProofState.AWAITED],
    "unconfirmed": [ProofState.UNCONFIRMED],
    "failed": [ProofState.FAILED],
}


class JobFilter(FilterForm):
    """Filters of the jobs: each says which items are meant."""

    state = forms.ChoiceField(
        required=False, label="State", choices=[("", "Any"), *ItemState.choices], widget=_select()
    )
    destination = forms.ChoiceField(required=False, label="Destination", widget=_select())
    rule = forms.ChoiceField(required=False, label="Rule", widget=_select())
    priority = forms.TypedChoiceField(
        required=False,
        label="Priority",
        choices=[("", "Any"), *Priority.choices],
        coerce=int,
        empty_value=None,
        widget=_select(),
    )
    age = forms.ChoiceField(
        required=False,
        label="Age",
        choices=[("", "Any"), *[(key, label) for key, (label, _age) in AGES.items()]],
        widget=_select(),
    )
    proof = forms.ChoiceField(
        required=False, label="Proof", choices=[("", "Any"), *PROOFS], widget=_select()
    )
    reason = forms.CharField(required=False, label="Reason", widget=forms.HiddenInput())
    replay = forms.IntegerField(
        required=False, label="Replay", min_value=1, widget=forms.HiddenInput()
    )

    def offer(self) -> None:
        """Offer the destinations and rules there are."""
        names = Destination.objects.values_list("name", flat=True)
        rules = Rule.objects.values_list("name", flat=True)
        asked = self.data.get("rule", "")
        known = sorted(
            {*rules, *([asked] if Job.objects.filter(rule=asked).exists() else [])} - {""}
        )
        self.fields["destination"].choices = _names("Any", names)  # type: ignore[attr-defined]
        self.fields["rule"].choices = _names("Any", known)  # type: ignore[attr-defined]

    @property
    def narrows(self) -> bool:
        """Tell whether any filter is in force."""
        return any(self.value(name) for name in self.fields)

    def items(self) -> JobItemQuerySet:
        """Return the visible items that match."""
        items = visible_items(self.user)
        if self.value("state"):
            items = items.filter(state=self.value("state"))
        if self.value("destination"):
            items = items.filter(destination__name=self.value("destination"))
        if self.value("rule"):
            items = items.filter(job__rule=self.value("rule"))
        if self.value("priority"):
            items = items.filter(priority=self.value("priority"))
        if self.value("reason"):
            items = items.filter(reason=self.value("reason"))
        if self.value("proof") == "proven":
            items = items.delivered().of_enough_grade()
        elif self.value("proof"):
            items = items.filter(proving__state__in=_PROOF_STATES[self.value("proof")])
        if self.value("replay"):
            items = items.filter(job__replay=self.value("replay"))
        if self.value("age"):
            items = items.filter(created_at__lt=clock.now() - AGES[self.value("age")][1])
        return items


class AuditFilter(FilterForm):
    """Filters of the audit list."""

    event = forms.ChoiceField(required=False, label="Event", widget=_select())
    actor = forms.CharField(
        required=False,
        label="Who",
        max_length=150,
        widget=forms.TextInput(attrs={"class": "input input-sm"}),
    )
    outcome = forms.ChoiceField(
        required=False,
        label="Outcome",
        choices=[("", "Any"), ("0", "Success"), ("failure", "Failure")],
        widget=_select(),
    )
    date_from = forms.DateField(required=False, label="From", widget=_date_input())
    date_to = forms.DateField(required=False, label="to", widget=_date_input())

    def offer(self) -> None:
        """Offer the events that occur."""
        events = AuditEvent.objects.values_list("event", flat=True).order_by("event").distinct()
        self.fields["event"].choices = _names("Any", events)  # type: ignore[attr-defined]

    def conditions(self) -> Q:
        """Return the filters as one condition."""
        found = Q()
        if self.value("event"):
            found &= Q(event=self.value("event"))
        if self.value("actor"):
            found &= Q(actor=self.value("actor"))
        if self.value("outcome"):
            success = Q(outcome="0")
            found &= success if self.value("outcome") == "0" else ~success
        if self.value("date_from"):
            found &= Q(at__date__gte=self.value("date_from"))
        if self.value("date_to"):
            found &= Q(at__date__lte=self.value("date_to"))
        return found
