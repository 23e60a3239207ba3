"""Secrets in the settings of a destination: the form fields that say where each one is kept.

A secret `x` is named by one of `x_env`, `x_file` and `x_stored` (see `router.secrets`); its value
is never part of the settings.
"""

import re
from collections.abc import Callable

from django import forms
from django.core.exceptions import ValidationError

from router import secrets
from router.destinations.fields import TextField

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


class ReferenceField(TextField):
    """Where a secret is kept; `check` raises ValueError for what can be no such place."""

    def __init__(self, check: Callable[[str], None]) -> None:
        super().__init__(max_length=1024, required=False)
        self._check = check

    def validate(self, value: object) -> None:
        """Refuse what can be no such place."""
        super().validate(value)
        try:
            if value:
                self._check(str(value))
        except ValueError as error:
            raise ValidationError(f"{str(error)[:1].upper()}{str(error)[1:]}.") from error


def references() -> tuple[forms.Field, forms.Field, forms.Field]:
    """Return the fields of one secret: its variable, its file, or its name among those stored."""
    return (
        ReferenceField(secrets.check_variable),
        ReferenceField(secrets.check_file),
        ReferenceField(_check_name),
    )


def keys_of(*names: str) -> tuple[str, ...]:
    """Return the keys that may name these secrets."""
    return tuple(f"{name}_{way}" for name in names for way in secrets.WAYS)


def _check_name(text: str) -> None:
    if not NAME.match(text):
        raise ValueError("the name of a stored secret is expected")
