"""A kind's own form as a page shows it: words, help, groups, and secrets that only go in.

The form itself, its keys and its rules are the kind's; nothing is checked here a second time.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from django import forms

from router.destinations.base import Kind
from router.destinations.form import DestinationForm
from router.models import Secret
from router.views.destination_help_table import HELP, LABELS, SECRETS

WAYS = ("env", "file", "stored")
NEW = "new_"
"""Before the name of a secret: the field its value is typed into."""
SEVERAL_LINES = frozenset({"tls_key", "service_key"})
"""Secrets that are whole files; a stored secret is one line."""
NEEDED = frozenset({"access_key", "secret_key", "secret"})


@dataclass(frozen=True)
class Line:
    """One setting: a field with its words."""

    key: str
    label: str
    help: str
    field: forms.BoundField


@dataclass(frozen=True)
class SecretLines:
    """One secret: where it is kept, in three ways, and a field for a new value of one line.

    Those that are not `is_open` are folded away: not needed, and not named by these settings.
    """

    key: str
    label: str
    stored: forms.BoundField
    env: forms.BoundField
    file: forms.BoundField
    choices: tuple[tuple[str, bool], ...]
    new: str
    is_one_line: bool
    is_open: bool


@dataclass(frozen=True)
class Sections:
    """The form in the order in which it is filled in."""

    first: tuple[Line, ...]
    secrets: tuple[SecretLines, ...]
    more: tuple[Line, ...]

    @property
    def more_is_wrong(self) -> bool:
        """Whether an error stands among what is folded away."""
        return any(line.field.errors for line in self.more)


def secret_names(kind: Kind) -> tuple[str, ...]:
    """Return the secrets that a kind may name."""
    return tuple(name for name in SECRETS if f"{name}_stored" in kind.form.base_fields)


def blank(kind: Kind, settings: Mapping[str, object]) -> DestinationForm:
    """Return the form as it is first shown, with `settings` or the defaults as text."""
    fields = kind.form.base_fields
    usual = {name: one.initial for name, one in fields.items() if one.initial is not None}
    values = {name: value for name, value in {**usual, **settings}.items() if name in fields}
    return kind.form(
        initial={name: as_text(name, fields[name], one) for name, one in values.items()}
    )


def bound(kind: Kind, given: Mapping[str, object]) -> DestinationForm:
    """Return the form with what was typed, whose errors say what is expected."""
    form = kind.form(given)
    for field in form.fields.values():
        field.error_messages["required"] = "It is needed: a value is expected here."
    return form


def as_text(name: str, field: forms.Field, value: object) -> object:
    """Return a value of a configuration as it is typed on a page."""
    shown: object = field.prepare_value(value)
    if isinstance(shown, list):
        return ", ".join(str(one) for one in shown)
    if isinstance(shown, Mapping):
        if name == "payload":
            return json.dumps(shown, indent=2, ensure_ascii=False)
        return ", ".join(f"{key}={one}" for key, one in shown.items())
    return shown


def sections(kind: Kind, form: DestinationForm) -> Sections:
    """Arrange a form for its page."""
    names = secret_names(kind)
    hidden = {f"{name}_{way}" for name in names for way in WAYS}
    lines = {key: _line(form, key) for key in form.fields if key not in hidden}
    needed = [key for key in lines if form.fields[key].required or key in _FIRST]
    stored = tuple(Secret.objects.order_by("name").values_list("name", flat=True))
    found = [_secret(form, name, stored) for name in names]
    return Sections(
        first=tuple(lines[key] for key in needed),
        secrets=tuple(sorted(found, key=lambda one: not one.is_open)),
        more=tuple(line for key, line in lines.items() if key not in needed),
    )


_FIRST = frozenset({"calling_ae", "endpoint", "region", "layout", "service", "tls"})
"""Settings that stand among the first although they may be left out."""


def _line(form: DestinationForm, key: str) -> Line:
    field = form.fields[key]
    if key == "payload":
        field.widget = forms.Textarea(attrs={"rows": 14, "class": "input mono area"})
    is_select = isinstance(field.widget, forms.Select)
    field.widget.attrs.setdefault("class", "select" if is_select else "input")
    bound = form[key]
    described = f"{bound.auto_id}_help" if key in HELP else ""
    if bound.errors:
        described = f"{bound.auto_id}_error {described}".strip()
        field.widget.attrs["aria-invalid"] = "true"
    if described:
        field.widget.attrs["aria-describedby"] = described
    label = LABELS.get(key) or key.replace("_", " ").capitalize()
    return Line(key, label, HELP.get(key, ""), bound)


def _secret(form: DestinationForm, name: str, stored: Iterable[str]) -> SecretLines:
    for way in ("env", "file"):
        form.fields[f"{name}_{way}"].widget.attrs["class"] = "input"
    fields = [form[f"{name}_{way}"] for way in WAYS]
    chosen = form[f"{name}_stored"].value() or ""
    return SecretLines(
        key=name,
        label=SECRETS[name],
        stored=form[f"{name}_stored"],
        env=form[f"{name}_env"],
        file=form[f"{name}_file"],
        choices=tuple(
            (one, one == chosen) for one in {**dict.fromkeys(stored), chosen: None} if one
        ),
        new=f"{NEW}{name}",
        is_one_line=name not in SEVERAL_LINES,
        is_open=name in NEEDED or any(one.errors or one.value() for one in fields),
    )


def typed_secrets(kind: Kind, given: Mapping[str, str]) -> dict[str, str]:
    """Return the secrets whose value was typed on the page."""
    names = [name for name in secret_names(kind) if name not in SEVERAL_LINES]
    found = {name: given.get(f"{NEW}{name}", "") for name in names}
    return {name: value for name, value in found.items() if value}


def free_name(destination: str, secret: str, *, taken: Iterable[str]) -> str:
    """Return a name under which no secret is stored, so that none in use is replaced."""
    names, number = set(taken), 1
    stem = f"{destination[:40]}-{secret}"
    while f"{stem}-{number}" in names:
        number += 1
    return f"{stem}-{number}"
