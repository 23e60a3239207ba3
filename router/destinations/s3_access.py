"""The way to a bucket: who we are, where it is, and how requests are made (SigV4).

A client is costly to make and may be shared, so the last few of this process are kept. Every
connection is made by `router.webclient`; the machine's own AWS settings are not looked at.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, urlencode, urlsplit

from router import secrets, webclient
from router.destinations.base import Settings
from router.destinations.fields import seconds
from router.destinations.outcomes import Outcome, Overrides
from router.destinations.s3_answers import Peer, Trouble
from router.destinations.s3_bucket import Bucket, Manner

KEPT_CLIENTS = 16


@dataclass(frozen=True, slots=True)
class Access:
    """All that a client is made from. It holds a secret and shows none. A process that was forked
    makes its own clients: connections cannot be shared."""

    endpoint: str
    region: str
    addressing: str
    keys: webclient.Keys
    ca_file: str
    connect_timeout: int
    response_timeout: int
    process: int


def bucket(settings: Settings) -> Bucket:
    """Return the bucket of a destination.

    Raises:
        Trouble: a secret or a file cannot be had, or the address is refused.
    """
    name, endpoint = str(settings["bucket"]), str(settings.get("endpoint") or "")
    host = urlsplit(endpoint).netloc if endpoint else f"AWS in {settings['region']}"
    overrides = cast(Overrides, settings.get("outcomes") or {})  # JSON has no types
    peer = Peer(f"The bucket {name} at {host}", overrides)
    try:
        client = _client(_access(settings, endpoint))
    except secrets.Unresolved as error:
        raise _unusable(f"A secret of this destination cannot be had: {error}.") from error
    except webclient.Forbidden as error:
        raise _unusable(f"{peer.name} is not connected to: {error}.") from error
    except (ValueError, OSError) as error:
        raise _unusable(f"{peer.name} cannot be asked with these settings: {error}.") from error
    return Bucket(client, name, peer, _manner(settings))


def _unusable(detail: str) -> Trouble:
    return Trouble(Outcome.CONFIGURATION, detail, "configuration")


def _access(settings: Settings, endpoint: str) -> Access:
    """Return what a client is made from.

    Raises:
        secrets.Unresolved: a secret cannot be had.
    """
    addressing = str(settings["addressing"])
    if addressing == "auto":
        addressing = "path" if endpoint else "virtual"
    return Access(
        endpoint=endpoint,
        region=str(settings["region"]),
        addressing=addressing,
        keys=webclient.Keys(
            access=secrets.resolve(settings, "access_key"),
            secret=secrets.resolve(settings, "secret_key"),
            token=secrets.resolve(settings, "session_token"),
        ),
        ca_file=str(settings.get("ca_file") or ""),
        connect_timeout=seconds(str(settings["connect_timeout"])),
        response_timeout=seconds(str(settings["response_timeout"])),
        process=os.getpid(),
    )


@lru_cache(maxsize=KEPT_CLIENTS)
def _client(access: Access) -> Any:  # boto3 makes the methods of a client when the program runs
    client = webclient.boto_client(
        "s3",
        keys=access.keys,
        region=access.region,
        endpoint=access.endpoint,
        timeout=webclient.Timeouts(connect=access.connect_timeout, read=access.response_timeout),
        verify=Path(access.ca_file) if access.ca_file else True,
        options={
            "signature_version": "s3v4",
            "s3": {"addressing_style": access.addressing},
            # Digests are ours: botocore's own come in a trailer that not every store knows.
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
            "max_pool_connections": 16,
        },
    )
    client.meta.events.register("before-call.s3", _without_expect)
    client.meta.events.register("before-send.s3", _leaving)
    return client


def _without_expect(params: dict[str, Any], **_others: object) -> None:
    """Send the body at once: the bucket and the key were looked at just before, so waiting for 100
    Continue would only cost a turn, and a second where the store does not know it."""
    params["headers"].pop("Expect", None)


def _leaving(request: Any, **_others: object) -> None:
    """Tell the body that it is signed and leaves now."""
    leave = getattr(request.body, "leave", None)
    if leave is not None:
        leave()


def _manner(settings: Settings) -> Manner:
    headers: dict[str, str] = {}
    if settings["encryption"] != "none":
        headers["ServerSideEncryption"] = str(settings["encryption"])
    if settings.get("kms_key"):
        headers["SSEKMSKeyId"] = str(settings["kms_key"])
    if settings.get("storage_class"):
        headers["StorageClass"] = str(settings["storage_class"])
    if settings.get("tags"):
        headers["Tagging"] = urlencode(cast(Mapping[str, str], settings["tags"]), quote_via=quote)
    return Manner(
        headers=headers,
        sha256=settings["checksum"] == "sha256",
        refuses=settings["overwrite_guard"] == "if_none_match",
    )
