"""The settings that every kind over HTTP takes: address, credentials, certificates, time-outs.

At most one way to say who we are, and that one whole: what is missing or too much is said beside
its field. Secrets stand here as references only.
"""

from django.core.exceptions import ValidationError

from router import webclient
from router.destinations.fields import DurationField, TextField
from router.destinations.folder import PathField
from router.destinations.form import DestinationForm
from router.destinations.references import keys_of, references

MOST_URL = 1000
WAYS = {
    "username and password": ("username", *keys_of("password")),
    "a token": keys_of("token"),
    "OAuth": ("oauth_url", "oauth_client", *keys_of("oauth_secret")),
    "a service account": keys_of("service_key"),
}


class UrlField(TextField):
    """An http or https address that the outbound guard does not refuse at sight."""

    def __init__(self, *, required: bool = True) -> None:
        super().__init__(max_length=MOST_URL, required=required)

    def to_python(self, value: object) -> str:
        """Return the address without a slash at its end."""
        text = super().to_python(value).rstrip("/")
        if not text:
            return text
        if not all("!" <= character <= "~" for character in text) or "#" in text:
            raise ValidationError("An address is expected, like https://host/path.")
        try:
            webclient.check_url(text)
        except webclient.Forbidden as error:
            raise ValidationError(str(error)) from error
        return text


class HeaderField(TextField):
    """Text that can stand in a header: a user name, a client id, a scope."""

    def __init__(self) -> None:
        super().__init__(max_length=500, required=False)

    def validate(self, value: object) -> None:
        """Refuse what is not printable."""
        super().validate(value)
        if not str(value).isprintable():
            raise ValidationError("Printable text is expected.")


class WebForm(DestinationForm):
    """The keys that every kind over HTTP takes."""

    url = UrlField()
    username = HeaderField()
    password_env, password_file, password_stored = references()
    token_env, token_file, token_stored = references()
    oauth_url = UrlField(required=False)
    oauth_client = HeaderField()
    oauth_secret_env, oauth_secret_file, oauth_secret_stored = references()
    oauth_scope = HeaderField()
    service_key_env, service_key_file, service_key_stored = references()
    ca_file = PathField(max_length=1024, required=False)
    client_cert = PathField(max_length=1024, required=False)
    client_key = PathField(max_length=1024, required=False)
    connect_timeout = DurationField(initial="10s", most="5m")
    response_timeout = DurationField(initial="60s", most="1h")

    def clean(self) -> dict[str, object]:
        """Have credentials whole, and of one kind."""
        cleaned = super().clean() or {}
        given = [way for way, keys in WAYS.items() if any(cleaned.get(key) for key in keys)]
        if len(given) > 1:
            first = next(key for key in WAYS[given[1]] if cleaned.get(key))
            self.add_error(first, f"One way to sign in is expected, not {' and '.join(given)}.")
        if "username and password" in given:
            self.need_one(("username",), "The user name")
            self.need_one(keys_of("password"), "The password")
        if "OAuth" in given:
            self.need_one(("oauth_url",), "The address of the token service")
            self.need_one(("oauth_client",), "The client id")
            self.need_one(keys_of("oauth_secret"), "The client secret")
        for name in ("token", "service_key"):
            if any(cleaned.get(key) for key in keys_of(name)):
                self.need_one(keys_of(name), "The token" if name == "token" else "The key")
        for key, other in (("client_cert", "client_key"), ("client_key", "client_cert")):
            if cleaned.get(key):
                self.need_one((other,), f"The file that goes with {key}")
        return cleaned

    def need_one(self, keys: tuple[str, ...], what: str) -> None:
        """Note at the first of `keys` that none of them is given, or more than one."""
        given = [key for key in keys if self.cleaned_data.get(key)]
        if not given and not any(key in self.errors for key in keys):
            self.add_error(keys[0], f"{what} is expected, as {' or '.join(keys)}.")
        if len(given) > 1:
            self.add_error(given[1], f"{what} is expected once, as {' or '.join(keys)}.")
