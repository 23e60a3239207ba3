"""The settings of a bucket as a form. It knows keys and their rules, asks no store."""

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from django import forms
from django.core.exceptions import ValidationError

from router import secrets, webclient
from router.destinations.fields import DurationField, TextField
from router.destinations.folder import DEFAULT_LAYOUT, LayoutField, PathField
from router.destinations.form import DestinationForm
from router.destinations.grades import ACCEPTED, NO_COMMITMENT, VERIFIED, GradeField
from router.destinations.references import references

MIB = 1 << 20
BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]\Z")
REGION = re.compile(r"[a-z0-9][a-z0-9-]{0,39}\Z")
PREFIX = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*\Z")
STORAGE_CLASS = re.compile(r"[A-Z][A-Z0-9_]{0,39}\Z")
TAG = re.compile(r"[A-Za-z0-9 +\-.:/@_]*\Z")
MOST_TAGS, TAG_NAME, TAG_VALUE = 10, 128, 256

ENCRYPTIONS = ("none", "AES256", "aws:kms")
ADDRESSINGS = ("auto", "path", "virtual")
CHECKSUMS = ("sha256", "md5")
GUARDS = ("if_none_match", "head")


class PatternField(TextField):
    """Text of a pattern; `expected` says which."""

    def __init__(
        self, pattern: re.Pattern[str], expected: str, *, initial: str = "", required: bool = False
    ) -> None:
        super().__init__(initial=initial or None, required=required)
        self._pattern, self._expected = pattern, expected

    def to_python(self, value: object) -> str:
        """Return the text when it is of the pattern."""
        text = super().to_python(value)
        if text and not self._pattern.match(text):
            raise ValidationError(f"{self._expected} is expected.")
        return text


class EndpointField(TextField):
    """The address of an S3 service, without a path."""

    def to_python(self, value: object) -> str:
        """Return the address without a slash at its end."""
        text = super().to_python(value).rstrip("/")
        if not text:
            return text
        try:
            webclient.check_url(text)
        except webclient.Forbidden as error:
            raise ValidationError(str(error)) from error
        parts = urlsplit(text)
        if parts.path or parts.query or parts.fragment:
            raise ValidationError("An address without a path is expected, like https://host:9000.")
        return text


class PrefixField(TextField):
    """What every key begins with: folders, as it were."""

    def to_python(self, value: object) -> str:
        """Return the prefix with one slash at its end."""
        text = super().to_python(value).rstrip("/")
        if not text:
            return text
        if not PREFIX.match(text) or any(not part.strip(".") for part in text.split("/")):
            raise ValidationError("Names of A-Z a-z 0-9 . _ - with / between them are expected.")
        return f"{text}/"


class TagsField(forms.Field):
    """Object tags, from a YAML mapping or from text like `site=north, kind=image`."""

    def __init__(self) -> None:
        super().__init__(required=False)

    def to_python(self, value: object) -> dict[str, str]:
        """Return the tags in order of their names."""
        given = _pairs(value) if isinstance(value, str) else value or {}
        if not isinstance(given, Mapping) or len(given) > MOST_TAGS:
            raise ValidationError(f"A mapping of at most {MOST_TAGS} tags is expected.")
        return dict(sorted(_tag(name, text) for name, text in given.items()))


def _pairs(text: str) -> dict[str, str]:
    parts = [part.partition("=") for part in text.split(",") if part.strip()]
    return {name.strip(): value.strip() for name, _, value in parts}


def _tag(name: object, value: object) -> tuple[str, str]:
    if not isinstance(name, str) or not isinstance(value, str):
        raise ValidationError('A tag is text: quote a number, like site: "7".')
    fits = 0 < len(name) <= TAG_NAME and len(value) <= TAG_VALUE
    if not fits or not TAG.match(name) or not TAG.match(value):
        raise ValidationError(
            f"{name!r} is no tag; a name of 1 to {TAG_NAME} and a value of at most {TAG_VALUE}"
            " letters, digits, spaces and + - . : / @ _ are expected."
        )
    return name, value


def _one_of(choices: tuple[str, ...]) -> forms.ChoiceField:
    return forms.ChoiceField(
        choices=[(choice, choice) for choice in choices], initial=choices[0], required=False
    )


class S3Form(DestinationForm):
    """The settings of a bucket. Without `endpoint` it is one of AWS in `region`."""

    endpoint = EndpointField(max_length=300, required=False)
    region = PatternField(REGION, "A region like eu-central-1", initial="us-east-1")
    bucket = PatternField(BUCKET, "A bucket name of 3 to 63 characters", required=True)
    # Django takes fields out of the class, so its own attribute `prefix` stays what it is.
    prefix = PrefixField(max_length=512, required=False)  # type: ignore[assignment]
    layout = LayoutField(max_length=1024, initial=DEFAULT_LAYOUT, required=False)
    access_key_env, access_key_file, access_key_stored = references()
    secret_key_env, secret_key_file, secret_key_stored = references()
    session_token_env, session_token_file, session_token_stored = references()
    addressing = _one_of(ADDRESSINGS)
    encryption = _one_of(ENCRYPTIONS)
    kms_key = TextField(max_length=300, required=False)
    storage_class = PatternField(STORAGE_CLASS, "A storage class like STANDARD_IA")
    tags = TagsField()
    checksum = _one_of(CHECKSUMS)
    overwrite_guard = _one_of(GUARDS)
    proof = GradeField(ACCEPTED, VERIFIED, why=NO_COMMITMENT)
    part_size = forms.IntegerField(min_value=5, max_value=512, initial=16, required=False)
    ca_file = PathField(max_length=1024, required=False)
    connect_timeout = DurationField(initial="10s", most="5m")
    response_timeout = DurationField(initial="60s", most="1h")

    def clean_kms_key(self) -> str:
        """Refuse a key that would not be used."""
        key: str = self.cleaned_data["kms_key"]
        if key and self.cleaned_data.get("encryption") != "aws:kms":
            raise ValidationError("It is used with encryption aws:kms only.")
        if not all("!" <= character <= "~" for character in key):
            raise ValidationError("A key id, ARN or alias is expected.")
        return key

    def clean(self) -> dict[str, object]:
        """Have both keys, each by one reference."""
        cleaned = super().clean() or {}
        for name in ("access_key", "secret_key", "session_token"):
            self._refer_once(name, is_needed=name != "session_token")
        return cleaned

    def _refer_once(self, name: str, *, is_needed: bool) -> None:
        ways = [f"{name}_{way}" for way in secrets.WAYS]
        given = [way for way in ways if self.cleaned_data.get(way)]
        if not given and is_needed and not any(way in self.errors for way in ways):
            self.add_error(ways[0], f"One of {', '.join(ways)} is expected.")
        if len(given) > 1:
            self.add_error(given[1], f"Only one of {', '.join(ways)} is expected.")
