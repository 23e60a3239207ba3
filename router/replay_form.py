"""The form of a new replay: which studies, what of them, and how they are sent."""

from typing import Any  # what Django's own forms take

from django import forms
from django.http import QueryDict

from router.forms import JobFilter
from router.models import (
    Destination,
    ItemState,
    JobItem,
    Replay,
    ReplayContent,
    ReplayOnly,
    ReplayRoute,
    Rule,
    Source,
    User,
)
from router.services import replays
from router.services.replay_selection import MOST_JOBS, Selection
from router.services.replays import Wish
from router.services.visibility import sees_patients, visible_jobs, visible_studies

Choices = list[tuple[str, str]]

ONLY: Choices = [
    (ReplayOnly.MISSING.value, "What the destination does not have"),
    (ReplayOnly.FAILED.value, "What failed"),
    (ReplayOnly.ALL.value, "Everything"),
]
ONLY_HELP = {
    "missing": "Each far end is asked first; what it has is left alone.",
    "failed": "What needs attention: parked after its tries, or refused.",
    "all": "Also what was delivered before. The far end gets those objects twice.",
}


def _text(length: int) -> forms.TextInput:
    return forms.TextInput(attrs={"class": "input", "autocomplete": "off", "maxlength": length})


def _select() -> forms.Select:
    return forms.Select(attrs={"class": "select"})


def _day() -> forms.DateInput:
    return forms.DateInput(format="%Y-%m-%d", attrs={"type": "date", "class": "input"})


def _moment() -> forms.DateTimeInput:
    attributes = {"type": "datetime-local", "class": "input"}
    return forms.DateTimeInput(format="%Y-%m-%dT%H:%M", attrs=attributes)


def _names(values: Any) -> Choices:
    return [("", "Any"), *[(value, value) for value in values]]


class ReplayForm(forms.Form):
    """What somebody wants to be sent once more."""

    patient_id = forms.CharField(
        required=False, label="Patient ID", max_length=64, widget=_text(64)
    )
    accession_number = forms.CharField(
        required=False, label="Accession number", max_length=16, widget=_text(16)
    )
    study_instance_uid = forms.CharField(
        required=False, label="Study Instance UID", max_length=64, widget=_text(64)
    )
    study_date_from = forms.DateField(required=False, label="Study date from", widget=_day())
    study_date_to = forms.DateField(required=False, label="Study date to", widget=_day())
    received_from = forms.DateTimeField(
        required=False, label="Received from (UTC)", widget=_moment()
    )
    received_to = forms.DateTimeField(
        required=False, label="Received before (UTC)", widget=_moment()
    )
    source = forms.ChoiceField(required=False, label="Source", widget=_select())
    destination = forms.ChoiceField(required=False, label="Destination", widget=_select())
    rule = forms.ChoiceField(required=False, label="Rule", widget=_select())
    state = forms.ChoiceField(
        required=False,
        label="State of the objects",
        choices=[("", "Any"), *ItemState.choices],
        widget=_select(),
    )
    jobs = forms.CharField(required=False, widget=forms.HiddenInput())
    only = forms.ChoiceField(choices=ONLY, initial=ReplayOnly.MISSING, widget=forms.RadioSelect())
    route = forms.ChoiceField(
        label="Destinations",
        choices=[
            (ReplayRoute.THEN.value, "As chosen then"),
            (ReplayRoute.RULES.value, "As the rules of today choose"),
        ],
        initial=ReplayRoute.THEN,
        widget=_select(),
    )
    content = forms.ChoiceField(
        label="What leaves",
        choices=[
            (ReplayContent.ORIGINAL.value, "The bytes that came"),
            (ReplayContent.CURRENT.value, "Under the transform that the rule has today"),
        ],
        initial=ReplayContent.ORIGINAL,
        widget=_select(),
    )
    rate = forms.FloatField(
        label="Objects a second",
        min_value=0,
        max_value=replays.MOST_RATE,
        initial=int(replays.USUAL_RATE),
        widget=forms.NumberInput(attrs={"class": "input", "step": "any"}),
        error_messages={"required": "A number is expected, 0 for as fast as it goes."},
    )

    def __init__(self, data: Any = None, *, user: User, initial: Any = None) -> None:
        super().__init__(data, initial=initial)
        self._offer(user)
        if not sees_patients(user):
            del self.fields["patient_id"]

    def _offer(self, user: User) -> None:
        present = Destination.objects.present().order_by("name")
        rules = {*Rule.objects.values_list("name", flat=True)}
        asked = str(self.initial.get("rule", "") or self.data.get("rule", ""))
        if JobItem.objects.filter(job__rule=asked).exists():
            rules.add(asked)  # one that is gone, and has chosen something
        sources = user.limits().get("sources") or Source.objects.values_list("name", flat=True)
        offered = {
            "destination": present.values_list("name", flat=True),
            "rule": sorted(rules - {""}),
            "source": sorted(sources),
        }
        for name, values in offered.items():
            self.fields[name].choices = _names(values)  # type: ignore[attr-defined]

    @property
    def only_choices(self) -> list[tuple[str, str, str, bool]]:
        """Return value, label, help and whether it is chosen, of each radio button."""
        chosen = str(self["only"].value())
        return [(value, label, ONLY_HELP[value], value == chosen) for value, label in ONLY]

    @property
    def job_count(self) -> int:
        """How many jobs are named."""
        return len(_numbers(str(self["jobs"].value() or "")))

    def wish(self) -> Wish:
        """Return what is wanted, of a valid form."""
        given = dict(self.cleaned_data)
        way = (
            ReplayOnly(given.pop("only")),
            ReplayRoute(given.pop("route")),
            ReplayContent(given.pop("content")),
            float(given.pop("rate")),
        )
        jobs = _numbers(given.pop("jobs"))
        return Wish(Selection(jobs=jobs, **given), *way)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part.isdigit())


# --- what a link fills in ------------------------------------------------------------------------
def initial_of(query: QueryDict, user: User) -> tuple[dict[str, object], str]:
    """Return what an address fills in, and a sentence about what it could not.

    ``study`` is a row id; ``again`` a replay; ``job`` and ``all`` are what a list of jobs had
    ticked. No address holds patient data.
    """
    again, study_pk = query.get("again", ""), query.get("study", "")
    if again.isdigit():
        return _again(int(again), user), ""
    names = ("destination", "rule", "state", "source", "only", "route")
    given: dict[str, object] = {name: query[name] for name in names if query.get(name)}
    if study_pk.isdigit():
        study = visible_studies(user).filter(pk=int(study_pk)).first()
        given |= {"study_instance_uid": study.study_instance_uid} if study else {}
    jobs, sentence = _jobs(query, user)
    if jobs:
        given |= {"jobs": ",".join(map(str, jobs)), "only": given.get("only", _usual(query))}
    return given, sentence


def _usual(query: QueryDict) -> str:
    return ReplayOnly.FAILED if query.get("state") == ItemState.PARKED else ReplayOnly.ALL


def _again(pk: int, user: User) -> dict[str, object]:
    replay = replays.visible_replays(user).filter(pk=pk).first()
    if replay is None:
        return {}
    selection = Selection.from_dict(replay.selection)
    named = selection.named()
    if not sees_patients(user):
        named.pop("patient_id", None)
    if "jobs" in named:
        named["jobs"] = ",".join(map(str, selection.jobs))
    return {**named, **_way_of(replay)}


def _way_of(replay: Replay) -> dict[str, object]:
    return {
        "only": replay.only,
        "route": replay.route,
        "content": replay.content,
        "rate": f"{replay.rate:g}",
    }


def _jobs(query: QueryDict, user: User) -> tuple[list[int], str]:
    filters = JobFilter(query, user=user)
    if query.get("all"):
        matching = filters.items().order_by().values("job")
        jobs = visible_jobs(user).filter(pk__in=matching).order_by("pk")
    else:
        ticked = [int(pk) for pk in query.getlist("job") if pk.isdigit()]
        jobs = visible_jobs(user).filter(pk__in=ticked).order_by("pk")
    found = list(jobs.values_list("pk", flat=True)[: MOST_JOBS + 1])
    if len(found) > MOST_JOBS:
        return [], (
            f"More than {MOST_JOBS:,} jobs match: they are meant by destination, rule and state "
            "here, not one by one. Narrow it down by a range of dates if that is too much."
        )
    return found, ""
