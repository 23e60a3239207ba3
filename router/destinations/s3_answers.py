"""What an answer of an S3 store, or none, means for the object that was sent (outcome table, S3).

It judges and words. What a store says in its own words is not repeated: it may hold a key, and a
key may hold the patient's id.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    ParamValidationError,
    ReadTimeoutError,
    SSLError,
)

from router import webclient
from router.destinations.base import Lane, Outgoing, Result
from router.destinations.outcomes import Outcome, Overrides, classify, http_status

RETRY, CONFIGURATION, DATA_ERROR = Outcome.RETRY, Outcome.CONFIGURATION, Outcome.DATA_ERROR
CODE = re.compile(r"[A-Za-z][A-Za-z0-9.]{1,63}\Z")

AWAY = frozenset({408, 425, 429, 502, 503, 504, 507})
"""The store as a whole cannot take anything now."""

_CREDENTIALS = "it does not accept our credentials; look at the access key and its secret"
_NOT_ALLOWED = "our credentials do not allow it; put, get and list on the bucket are needed"
_REGION = "the bucket lies in another region{region}; correct region or endpoint here"
_UNFIT = "it does not take an object with these settings"
_CONTENT = "the bytes that arrived there are not those that left; none were kept"
_SLOW = "it is asked for more than it can do at the moment"
_FULL = "it has no room left"

CODES: Mapping[str, tuple[Outcome, Lane | None, str]] = {
    "NoSuchBucket": (CONFIGURATION, "configuration", "there is no such bucket"),
    "InvalidBucketName": (CONFIGURATION, "configuration", "there can be no such bucket"),
    "MethodNotAllowed": (CONFIGURATION, "configuration", "there is no S3 service at this address"),
    "AccessDenied": (CONFIGURATION, "configuration", _NOT_ALLOWED),
    "AllAccessDisabled": (CONFIGURATION, "configuration", _NOT_ALLOWED),
    "AccountProblem": (CONFIGURATION, "configuration", _NOT_ALLOWED),
    "Forbidden": (CONFIGURATION, "configuration", _NOT_ALLOWED),
    "InvalidAccessKeyId": (CONFIGURATION, "configuration", _CREDENTIALS),
    "SignatureDoesNotMatch": (CONFIGURATION, "configuration", _CREDENTIALS),
    "ExpiredToken": (CONFIGURATION, "configuration", _CREDENTIALS),
    "InvalidToken": (CONFIGURATION, "configuration", _CREDENTIALS),
    "Unauthorized": (CONFIGURATION, "configuration", _CREDENTIALS),
    "RequestTimeTooSkewed": (
        CONFIGURATION,
        "configuration",
        "its clock and ours are too far apart",
    ),
    "PermanentRedirect": (CONFIGURATION, "configuration", _REGION),
    "TemporaryRedirect": (CONFIGURATION, "configuration", _REGION),
    "AuthorizationHeaderMalformed": (CONFIGURATION, "configuration", _REGION),
    "IllegalLocationConstraintException": (CONFIGURATION, "configuration", _REGION),
    "InvalidStorageClass": (CONFIGURATION, "configuration", "it has no such storage class"),
    "InvalidEncryptionAlgorithmError": (CONFIGURATION, "configuration", _UNFIT),
    "KMS": (CONFIGURATION, "configuration", "its key service does not let us use the key"),
    "InvalidTag": (CONFIGURATION, "configuration", _UNFIT),
    "InvalidArgument": (CONFIGURATION, "configuration", _UNFIT),
    "InvalidRequest": (CONFIGURATION, "configuration", _UNFIT),
    "NotImplemented": (CONFIGURATION, "configuration", _UNFIT),
    "EntityTooLarge": (DATA_ERROR, None, "the object is too large for it"),
    "EntityTooSmall": (CONFIGURATION, "configuration", "its parts must be larger; raise part_size"),
    "KeyTooLongError": (DATA_ERROR, None, "the key is too long for it"),
    "KeyTooLong": (DATA_ERROR, None, "the key is too long for it"),
    "BadDigest": (RETRY, None, _CONTENT),
    "InvalidDigest": (RETRY, None, _CONTENT),
    "IncompleteBody": (RETRY, None, _CONTENT),
    "XAmzContentSHA256Mismatch": (RETRY, None, _CONTENT),
    "XAmzContentChecksumMismatch": (RETRY, None, _CONTENT),
    "RequestTimeout": (RETRY, "transport", "it waited too long for our bytes"),
    "SlowDown": (RETRY, "transport", _SLOW),
    "Throttling": (RETRY, "transport", _SLOW),
    "TooManyRequests": (RETRY, "transport", _SLOW),
    "ServiceUnavailable": (RETRY, "transport", _SLOW),
    "QuotaExceeded": (RETRY, "transport", _FULL),
    "XMinioStorageFull": (RETRY, "transport", _FULL),
    "InternalError": (RETRY, None, "something failed within it"),
    "OperationAborted": (RETRY, None, "another request for the same key was in its way"),
    "ConditionalRequestConflict": (
        RETRY,
        None,
        "another request for the same key was in its way",
    ),
    "NoSuchUpload": (RETRY, None, "the upload was ended by somebody else"),
}
"""Error codes of S3 that say more than their HTTP status; for the others the status decides."""

STATUSES: Mapping[int, str] = {
    301: _REGION,
    307: _REGION,
    401: _CREDENTIALS,
    403: _NOT_ALLOWED,
    404: "there is no such thing",
    413: "the object is too large for it",
    503: _SLOW,
    507: _FULL,
}


class Mute(BotoCoreError):  # type: ignore[misc]  # botocore has no types
    """An answer that was cut: it says yes, and not what belongs to it."""

    fmt = "the answer was cut"


class Trouble(Exception):
    """Why an item was not stored, as a result without a number."""

    def __init__(
        self, outcome: Outcome, detail: str, lane: Lane | None = None, *, status: int | None = None
    ) -> None:
        super().__init__(detail)
        self.outcome, self.detail, self.lane, self.status = outcome, detail, lane, status

    def result(self, item: Outgoing, *, bytes_sent: int = 0) -> Result:
        """Return it as the result of `item`."""
        return Result(
            item.item_id,
            self.outcome,
            self.detail,
            status=self.status,
            bytes_sent=bytes_sent,
            lane=self.lane,
        )

    def for_those_after(self) -> Self:
        """Return what those get that were not begun because of it: it costs them no attempt."""
        outcome = CONFIGURATION if self.outcome == CONFIGURATION else Outcome.NOT_SENT
        return type(self)(outcome, self.detail, self.lane)


@dataclass(frozen=True, slots=True)
class Peer:
    """How the store is called in sentences, and what a status means there."""

    name: str
    overrides: Overrides

    def judge(self, error: BotoCoreError | ClientError, *, was_whole: bool = False) -> Trouble:
        """Return what `error` means. With `was_whole` all that decides the fate of the object had
        left, so that without an answer nobody knows it."""
        if isinstance(error, ClientError):
            return self._of_answer(error)
        if isinstance(error, webclient.BotoForbidden):
            detail = f"{self.name} is not connected to: {error}."
            return Trouble(CONFIGURATION, detail, "configuration")
        if isinstance(error, ParamValidationError):
            detail = f"The settings make no valid request to {self.name}."
            return Trouble(CONFIGURATION, detail, "configuration")
        trouble = self._of_connection(error)
        if was_whole and trouble.outcome == RETRY:
            detail = f"{trouble.detail[:-1]} after all had left; what became of it is unknown."
            return Trouble(Outcome.UNKNOWN, detail, "transport")
        return trouble

    def _of_answer(self, error: ClientError) -> Trouble:
        status, code = status_of(error), code_of(error)
        outcome, lane, why = CODES.get(code.partition(".")[0], (None, None, ""))
        if outcome is None or _is_overridden(status, self.overrides):
            outcome = classify(http_status(status), self.overrides)
            lane, why = _lane(outcome, status), why or STATUSES.get(status, "")
        region = _region(error)
        reason = why.format(region=f", {region}" if region else "") or "it says no more"
        named = f"{code} (HTTP {status})" if CODE.match(code) else f"HTTP {status}"
        detail = f"{self.name} answered {named}: {reason}."
        return Trouble(outcome, detail, lane, status=http_status(status))

    def _of_connection(self, error: BotoCoreError) -> Trouble:
        if isinstance(error, SSLError):
            return self._of_tls(str(error))
        if isinstance(error, ConnectTimeoutError | EndpointConnectionError):
            return Trouble(RETRY, f"{self.name} cannot be reached.", "transport")
        if isinstance(error, ReadTimeoutError):
            return Trouble(RETRY, f"{self.name} gave no answer in time.", "transport")
        if isinstance(error, HTTPClientError):
            return Trouble(RETRY, f"The connection to {self.name} broke.", "transport")
        return Trouble(RETRY, f"{self.name} gave an answer that is none of S3.", "transport")

    def _of_tls(self, words: str) -> Trouble:
        if "CERTIFICATE_VERIFY_FAILED" in words:
            detail = f"The certificate of {self.name} is not trusted; look at ca_file."
            return Trouble(CONFIGURATION, detail, "configuration")
        return Trouble(RETRY, f"No TLS connection to {self.name} could be made.", "transport")


def status_of(error: ClientError) -> int:
    """Return the HTTP status of an error answer."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500))


def code_of(error: ClientError) -> str:
    """Return the error code of an error answer; of one without a body its status."""
    return str(error.response.get("Error", {}).get("Code", ""))


def _is_overridden(status: int, overrides: Overrides) -> bool:
    digits = f"{http_status(status):04X}"
    return any(digits.startswith(pattern.replace("x", "")) for pattern in overrides)


def _lane(outcome: Outcome, status: int) -> Lane | None:
    if outcome == CONFIGURATION:
        return "configuration"
    return "transport" if outcome == RETRY and status in AWAY else None


def _region(error: ClientError) -> str:
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    found = str(headers.get("x-amz-bucket-region") or error.response.get("Error", {}).get("Region"))
    return found if re.fullmatch(r"[a-z0-9-]{3,40}", found) else ""
