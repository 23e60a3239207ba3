"""The settings of a storage SCP as a form. It knows keys and their rules and speaks to no peer."""

import re
from collections.abc import Mapping, Sequence
from typing import cast

from django import forms
from django.core.exceptions import ValidationError
from pydicom import uid as registered
from pydicom.uid import UID

from router.destinations.fields import DurationField, FlagField, TextField
from router.destinations.form import DestinationForm
from router.destinations.grades import ACCEPTED, COMMITTED, VERIFIED, GradeField
from router.destinations.references import keys_of, references
from router.dicom.syntaxes import TARGETS, UnknownSyntax, named

HOST_LENGTH = 253
AE_TITLE_LENGTH = 16
PATH_LENGTH = 1024
MOST_SYNTAXES, MOST_CLASSES = 16, 200
AS_STORED, UNCOMPRESSED = "as_stored", "uncompressed"
FINGERPRINT = re.compile(r"[0-9a-f]{64}\Z")
SOP_CLASS = re.compile(r"[0-9]+(\.[0-9]+)+\Z")
KEYS = keys_of("tls_key")
TLS_KEYS = ("tls_ca", "tls_certificate", *KEYS, "tls_server_name", "tls_pin")


class AETitleField(TextField):
    """An AE title (PS3.5 6.2, VR AE)."""

    def __init__(self, *, required: bool = True) -> None:
        super().__init__(max_length=AE_TITLE_LENGTH, required=required)

    def validate(self, value: object) -> None:
        """Refuse what is not of the default character repertoire."""
        super().validate(value)
        if not all(" " <= character <= "~" and character != "\\" for character in str(value)):
            raise ValidationError("An AE title is printable ASCII without a backslash.")


class HostField(TextField):
    """A host name or an address."""

    def validate(self, value: object) -> None:
        """Refuse what can be no host."""
        super().validate(value)
        if not all("!" <= character <= "~" for character in str(value)) or "/" in str(value):
            raise ValidationError("A host name or an address is expected.")


class PemField(TextField):
    """The path of a PEM file of this machine; it is read when a connection is made."""

    def __init__(self) -> None:
        super().__init__(max_length=PATH_LENGTH, required=False)

    def validate(self, value: object) -> None:
        """Refuse what is no absolute path."""
        super().validate(value)
        if value and (not str(value).startswith("/") or "\0" in str(value)):
            raise ValidationError("The absolute path of a PEM file is expected.")


class FingerprintField(TextField):
    """The SHA-256 of a certificate, with or without colons."""

    def to_python(self, value: object) -> str:
        """Return it in lower case without colons."""
        text = super().to_python(value).replace(":", "").lower()
        if text and not FINGERPRINT.match(text):
            raise ValidationError(
                "The SHA-256 fingerprint of a certificate is expected: 64 hexadecimal digits."
            )
        return text


class SyntaxesField(forms.Field):
    """`as_stored`, `uncompressed`, or transfer syntaxes by UID or keyword, best first."""

    def __init__(self) -> None:
        super().__init__(initial=AS_STORED, required=False)

    def prepare_value(self, value: object) -> object:
        """Return it as text that stands in a field of a page."""
        return ", ".join(map(str, value)) if isinstance(value, list) else value

    def to_python(self, value: object) -> str | list[str]:
        """Return one of the words, or the list of UIDs."""
        if isinstance(value, str) and value.strip() in (AS_STORED, UNCOMPRESSED):
            return value.strip()
        given = (
            [part for part in value.split(",") if part.strip()] if isinstance(value, str) else value
        )
        if not isinstance(given, list) or not 1 <= len(given) <= MOST_SYNTAXES:
            raise ValidationError(
                f"{AS_STORED}, {UNCOMPRESSED}, or a list of up to {MOST_SYNTAXES} transfer "
                "syntaxes is expected."
            )
        found = [_syntax(one) for one in given]
        if len(set(found)) != len(found):
            raise ValidationError("A transfer syntax is listed twice.")
        if not set(found) & set(TARGETS):
            raise ValidationError(
                "ExplicitVRLittleEndian or ImplicitVRLittleEndian must be listed too: objects "
                "without pixels leave in it."
            )
        return found


def _syntax(value: object) -> str:
    if not isinstance(value, str):
        raise ValidationError(f"{value!r} is no transfer syntax; a UID in quotes is expected.")
    try:
        return named(value)
    except UnknownSyntax as error:
        raise ValidationError(f"{error}.") from error


class SopClassesField(forms.Field):
    """Which SOP classes may leave: `{allow: […]}` or `{deny: […]}`, by UID or keyword."""

    def __init__(self) -> None:
        super().__init__(required=False)

    def prepare_value(self, value: object) -> object:
        """Return it as text that stands in a field of a page."""
        if not isinstance(value, Mapping):
            return value
        return "; ".join(f"{key}: {', '.join(uids)}" for key, uids in value.items())

    def to_python(self, value: object) -> dict[str, list[str]]:
        """Return the UIDs below `allow` or `deny`, nothing when all may leave."""
        given = _from_text(value) if isinstance(value, str) else value or {}
        if not isinstance(given, Mapping) or not set(given) <= {"allow", "deny"} or len(given) > 1:
            raise ValidationError(
                "allow or deny with SOP classes is expected, like "
                "{deny: [RawDataStorage, SecondaryCaptureImageStorage]}."
            )
        return {str(key): _classes(uids) for key, uids in given.items()}


def _from_text(text: str) -> dict[str, object]:
    key, _, rest = text.partition(":")
    parts = [part.strip() for part in rest.split(",") if part.strip()]
    return {key.strip(): parts} if text.strip() else {}


def _classes(given: object) -> list[str]:
    if not isinstance(given, list | tuple) or not 1 <= len(given) <= MOST_CLASSES:
        raise ValidationError(f"A list of 1 to {MOST_CLASSES} SOP classes is expected.")
    return sorted({_sop_class(one) for one in given})


def _sop_class(value: object) -> str:
    """Return a UID; one that is not registered may be of a private class."""
    text = value.strip() if isinstance(value, str) else ""
    known = getattr(registered, text, None)
    if isinstance(known, UID) and known.type == "SOP Class":
        return str(known)
    if not SOP_CLASS.match(text) or not UID(text).is_valid:
        raise ValidationError(
            f"{value!r} is no SOP class; a UID or a keyword such as CTImageStorage is expected."
        )
    return text


class DicomForm(DestinationForm):
    """The settings of a storage SCP. Without `calling_ae` we call ourselves by our own AE title."""

    host = HostField(max_length=HOST_LENGTH)
    port = forms.IntegerField(min_value=1, max_value=65535)
    ae_title = AETitleField()
    calling_ae = AETitleField(required=False)
    max_pdu = forms.IntegerField(min_value=4096, max_value=1 << 20, initial=131072, required=False)
    connect_timeout = DurationField(initial="10s", most="5m")
    response_timeout = DurationField(initial="60s", most="1h")
    transfer_syntax = SyntaxesField()
    sop_classes = SopClassesField()
    tls = FlagField(initial=False)
    tls_ca = PemField()
    tls_certificate = PemField()
    tls_key_env, tls_key_file, tls_key_stored = references()
    tls_server_name = HostField(max_length=HOST_LENGTH, required=False)
    tls_pin = FingerprintField(required=False)
    tls_verify = FlagField(initial=True)
    proof = GradeField(ACCEPTED, VERIFIED, COMMITTED)
    commit_wait = DurationField(initial="10s", least="0s", most="5m")
    commit_timeout = DurationField(initial="1h", most="30d")
    commit_batch = forms.IntegerField(min_value=1, max_value=2000, initial=500, required=False)

    def clean(self) -> dict[str, object]:
        """Refuse keys of TLS that would have no effect."""
        given = cast(dict[str, object], super().clean() or self.cleaned_data)
        if not given.get("tls"):
            self._refuse(given, TLS_KEYS, "It is used with tls: true only.")
            if given.get("tls_verify") is False:
                self.add_error("tls_verify", "It is used with tls: true only.")
        elif given.get("tls_verify") is False:
            vain = ("tls_ca", "tls_server_name")
            self._refuse(given, vain, "Without tls_verify it has no effect; leave one of them out.")
        keys = [key for key in KEYS if given.get(key)]
        if keys and not given.get("tls_certificate"):
            self.add_error(keys[0], "It belongs to a tls_certificate, which is missing.")
        for key in keys[1:]:
            self.add_error(key, f"The key is expected once; {keys[0]} names it already.")
        return given

    def _refuse(self, given: Mapping[str, object], keys: Sequence[str], message: str) -> None:
        for key in keys:
            if given.get(key):
                self.add_error(key, message)
