"""The far end of a `dicom` destination as its settings say: who it is and what it is to be sent."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Self, cast

from django.conf import settings as project

from router import dimse, secrets
from router.destinations.base import Settings
from router.destinations.dicom_form import AS_STORED, UNCOMPRESSED
from router.destinations.fields import seconds
from router.dicom import part10
from router.dicom.syntaxes import TARGETS


@dataclass(frozen=True, slots=True)
class Far:
    """The peer, the transfer syntaxes it is to get, and how it is called on the screen."""

    peer: dimse.Peer
    preference: dimse.Preference
    name: str

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return what canonical settings say."""
        peer = _peer(settings)
        name = f"{peer.ae_title} at {peer.host}:{peer.port}"
        return cls(peer, _preference(settings.get("transfer_syntax")), name)


def allows(settings: Settings, sop_class_uid: str) -> bool:
    """Tell whether objects of a SOP class may leave (C21)."""
    rule = cast(Mapping[str, list[str]], settings.get("sop_classes") or {})  # JSON has no types
    if "allow" in rule:
        return sop_class_uid in rule["allow"]
    return sop_class_uid not in rule.get("deny", ())


def _preference(wanted: object) -> dimse.Preference:
    if wanted in (None, AS_STORED):
        return dimse.Preference()
    if wanted == UNCOMPRESSED:
        return dimse.Preference(TARGETS)
    return dimse.Preference(tuple(cast(list[str], wanted)))  # JSON has no types


def _peer(settings: Settings) -> dimse.Peer:
    return dimse.Peer(
        host=str(settings["host"]),
        port=int(str(settings["port"])),
        ae_title=str(settings["ae_title"]),
        calling_ae=str(settings.get("calling_ae") or project.AE_TITLE),
        implementation=(part10.IMPLEMENTATION_CLASS_UID, part10.IMPLEMENTATION_VERSION_NAME),
        connect_timeout=seconds(str(settings["connect_timeout"])),
        response_timeout=seconds(str(settings["response_timeout"])),
        most_pdu=int(str(settings["max_pdu"])),
        tls=_tls(settings),
    )


def _tls(settings: Settings) -> dimse.Tls | None:
    if not settings.get("tls"):
        return None
    return dimse.Tls(
        server_name=str(settings.get("tls_server_name") or settings["host"]),
        ca=str(settings.get("tls_ca") or ""),
        certificate=str(settings.get("tls_certificate") or ""),
        key=partial(_key, settings),
        pin=str(settings.get("tls_pin") or ""),
        verify=bool(settings.get("tls_verify", True)),
    )


def _key(settings: Settings) -> str:
    try:
        return secrets.resolve(settings, "tls_key")
    except secrets.Unresolved as error:
        raise dimse.Untrusted(f"TLS is not possible, because {error}") from error
