"""Which proposed presentation contexts we take (PS3.8 9.3.3.2, PS3.7 Annex D.3).

Verification, every storage SOP class of the dictionary and any private abstract syntax for
storage are accepted, each with one transfer syntax that we know. To add a service, add a row to
SERVICES. It refuses to know sockets, sources and pynetdicom's objects: plain values in and out.

Roles. We are the SCP of every service but one: a peer that reports on storage commitments is their
SCP, and we are the SCU of that class (PS3.4 J.3.3, PS3.7 D.3.3.4).

Choice of transfer syntax. The requestor's order decides: DCMTK, Orthanc, dcm4che and pynetdicom
put the syntax an object is stored in first, so its first known one is the one that leaves the
data as it is; taking an uncompressed one from [JPEG 2000, Implicit] would make the sender decode,
taking a lossy one from [Explicit, JPEG] would make it compress. One exception: between the
uncompressed syntaxes proposed in one context, which senders convert among freely and list in
their own machine's order, Explicit VR Little Endian is taken, then Implicit, then Big Endian,
because Explicit keeps the VR of private elements.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum

from pydicom.uid import UID_dictionary
from pynetdicom import ALL_TRANSFER_SYNTAXES
from pynetdicom.sop_class import _STORAGE_CLASSES

from router.dicom import commitment
from router.dicom.uids import valid_uid

VERIFICATION = "1.2.840.10008.1.1"
STANDARD_ROOT = "1.2.840.10008."
DEFLATED_IMAGE_FRAME = "1.2.840.10008.1.2.8.1"
IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"

KNOWN_TRANSFER_SYNTAXES = frozenset(map(str, ALL_TRANSFER_SYNTAXES)) | {DEFLATED_IMAGE_FRAME}
UNCOMPRESSED_BY_PREFERENCE = (EXPLICIT_LITTLE, IMPLICIT_LITTLE, EXPLICIT_BIG)
# SOP classes of the dictionary with "Storage" in their name which are not for C-STORE.
_NOT_STORED = ("Storage Commitment", "Media Storage Directory", "Stored Print")


class Result(IntEnum):
    """Result/Reason of one presentation context (PS3.8 Table 9-18)."""

    ACCEPTANCE = 0
    USER_REJECTION = 1
    NO_REASON = 2
    ABSTRACT_SYNTAX_NOT_SUPPORTED = 3
    TRANSFER_SYNTAXES_NOT_SUPPORTED = 4


@dataclass(frozen=True, slots=True)
class Proposal:
    """One presentation context as the requestor proposed it."""

    context_id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Context:
    """Our answer to one proposal. A refused context carries a syntax that means nothing."""

    context_id: int
    abstract_syntax: str
    transfer_syntax: str
    result: Result
    service: str | None = None

    @property
    def is_accepted(self) -> bool:
        return self.result is Result.ACCEPTANCE


@dataclass(frozen=True, slots=True)
class Roles:
    """SCP/SCU Role Selection of one SOP class (PS3.7 D.3.3.4), as the requestor's roles."""

    scu: bool
    scp: bool


@dataclass(frozen=True, slots=True)
class Service:
    """A service that we take part in; `name` is the word used in the sources' `services`.

    With `is_ours_as_scu` the requestor is its SCP.
    """

    name: str
    has: Callable[[str], bool]
    is_ours_as_scu: bool = False

    def is_fit(self, role: Roles) -> bool:
        """Tell whether a requestor of these roles can use it."""
        return role.scp if self.is_ours_as_scu else role.scu

    @property
    def role(self) -> Roles:
        """The requestor's role in it, as we answer it."""
        return Roles(scu=not self.is_ours_as_scu, scp=self.is_ours_as_scu)


def is_storage(abstract_syntax: str) -> bool:
    """A storage SOP class of the dictionary, or a private one (PS3.4 B.5, PS3.5 9)."""
    if abstract_syntax.startswith(STANDARD_ROOT):
        return abstract_syntax in STORAGE_SOP_CLASSES
    return valid_uid(abstract_syntax)


def is_verification(abstract_syntax: str) -> bool:
    return abstract_syntax == VERIFICATION


def is_commitment(abstract_syntax: str) -> bool:
    return abstract_syntax == commitment.SOP_CLASS


SERVICES = (
    Service("echo", is_verification),
    Service("store", is_storage),
    Service("commit", is_commitment, is_ours_as_scu=True),
)


def service_of(abstract_syntax: str) -> str | None:
    """The name of the service an abstract syntax belongs to, or None when we do not offer it."""
    service = _service(abstract_syntax)
    return service.name if service else None


def _service(abstract_syntax: str) -> Service | None:
    return next((service for service in SERVICES if service.has(abstract_syntax)), None)


def negotiate(
    proposals: Iterable[Proposal],
    services: frozenset[str],
    *,
    roles: Mapping[str, Roles],
    is_reporter: bool = False,
) -> tuple[list[Context], dict[str, Roles]]:
    """Answer every proposal, with the role selection to answer for accepted SOP classes.

    Who proposes no role is an SCU (PS3.7 D.3.3.4). Of a peer that we ask for commitments
    (`is_reporter`) it is taken for granted that it comes to report, as many forget to say so.
    `services` is what the caller may use. A requestor that proposes not to have the role that is
    left to it is refused (result 1), and one that proposes both roles gets that one.
    """
    contexts = [
        _answer(proposal, services, roles, is_reporter=is_reporter) for proposal in proposals
    ]
    accepted = {context.abstract_syntax for context in contexts if context.is_accepted}
    found = {uid: _service(uid) for uid in roles if uid in accepted}
    return contexts, {uid: service.role for uid, service in found.items() if service}


def choose_transfer_syntax(proposed: Iterable[str]) -> str | None:
    """The one of the proposed transfer syntaxes we take, None when we know none of them."""
    known = [uid for uid in proposed if uid in KNOWN_TRANSFER_SYNTAXES]
    if not known:
        return None
    if known[0] in UNCOMPRESSED_BY_PREFERENCE:
        return next(uid for uid in UNCOMPRESSED_BY_PREFERENCE if uid in known)
    return known[0]


def _answer(
    proposal: Proposal,
    services: frozenset[str],
    roles: Mapping[str, Roles],
    *,
    is_reporter: bool,
) -> Context:
    service = _service(proposal.abstract_syntax)
    chosen = choose_transfer_syntax(proposal.transfer_syntaxes)
    role = roles.get(proposal.abstract_syntax)
    if service is None or (service.is_ours_as_scu and role is None and not is_reporter):
        result = Result.ABSTRACT_SYNTAX_NOT_SUPPORTED
    elif service.name not in services or not service.is_fit(role or service.role):
        result = Result.USER_REJECTION
    elif chosen is None:
        result = Result.TRANSFER_SYNTAXES_NOT_SUPPORTED
    else:
        result = Result.ACCEPTANCE
    syntax = chosen or next(iter(proposal.transfer_syntaxes), IMPLICIT_LITTLE)
    name = service.name if service else None
    return Context(
        proposal.context_id, proposal.abstract_syntax, syntax, result=result, service=name
    )


def _storage_sop_classes() -> frozenset[str]:
    named = {
        uid
        for uid, (name, kind, *_) in UID_dictionary.items()
        if kind == "SOP Class" and "Storage" in name and not name.startswith(_NOT_STORED)
    }
    return frozenset(named | {str(uid) for uid in _STORAGE_CLASSES.values()})


STORAGE_SOP_CLASSES = _storage_sop_classes()
