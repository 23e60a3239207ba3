"""Trying a storage SCP: echo, contexts, a test object, and a rehearsal of what was seen lately.

Each ends with what a person can read; nothing that was received is sent.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pydicom.uid import UID

from router import dimse
from router.destinations import dicom_confirm, dicom_test_object, grades
from router.destinations.base import Step, Verification
from router.destinations.dicom_peer import Far
from router.destinations.outcomes import Outcome, classify, status_sentence
from router.destinations.trials import Offer, Rehearsed, Trial
from router.dicom import commitment
from router.dicom.syntaxes import TARGETS

PROBED_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.2",  # CT
    "1.2.840.10008.5.1.4.1.1.4",  # MR
    "1.2.840.10008.5.1.4.1.1.1.1",  # digital X-ray
    "1.2.840.10008.5.1.4.1.1.6.1",  # ultrasound
    dicom_test_object.SOP_CLASS,
    "1.2.840.10008.5.1.4.1.1.88.22",  # enhanced structured report
)
PROBED_SYNTAXES = (
    *TARGETS,
    "1.2.840.10008.1.2.4.70",  # JPEG lossless
    "1.2.840.10008.1.2.4.90",  # JPEG 2000 lossless
)
PROVING = {
    grades.VERIFIED: (dicom_confirm.STUDY_ROOT_FIND, "C-FIND of the Study Root model"),
    grades.COMMITTED: (commitment.SOP_CLASS, "storage commitment"),
}
"""What each grade asks the peer by, and its name."""
ECHO = (dimse.Proposal(1, dimse.VERIFICATION, TARGETS),)

Words = Callable[[dimse.DimseError], str]
"""What an association that did not come about means, as a sentence."""


def verify(far: Far, *, refusal: Words, grade: str = grades.ACCEPTED) -> Verification:
    """Connect, associate and echo, and say which contexts are accepted, and whether the peer offers
    what its proof of `grade` takes."""
    return _tried(far, refusal, lambda trial: [_contexts(trial), *_proof(trial, grade)])


def send_test(far: Far, *, refusal: Words) -> Verification:
    """Verify, and store a synthetic object."""
    return _tried(far, refusal, lambda trial: [_contexts(trial), _stored(trial)])


@dataclass(frozen=True, slots=True)
class _Trial:
    far: Far
    association: dimse.Association
    proposals: Sequence[dimse.Proposal]
    refusal: Words


def _tried(far: Far, refusal: Words, further: Callable[[_Trial], list[Step]]) -> Verification:
    proposals = _probing()
    try:
        association = dimse.associate(far.peer, proposals, pace=dimse.Pace())
    except dimse.Unreachable as error:
        return Verification((Step("connection", ok=False, detail=refusal(error)),))
    except dimse.DimseError as error:
        name = "tls" if isinstance(error, dimse.Untrusted) else "association"
        failed = Step(name, ok=False, detail=refusal(error))
        return Verification((_connected(far), failed))
    with association:
        trial = _Trial(far, association, proposals, refusal)
        steps = [_connected(far), *_protected(far), _associated(trial), _echoed(trial)]
        if all(step.ok for step in steps):
            steps += further(trial)
    return Verification(tuple(_until_failure(steps)))


def _until_failure(steps: Sequence[Step]) -> list[Step]:
    last = next((at for at, step in enumerate(steps) if not step.ok), len(steps))
    return list(steps[: last + 1])


def _probing() -> list[dimse.Proposal]:
    pairs: list[tuple[str, tuple[str, ...]]] = [(dimse.VERIFICATION, TARGETS)]
    pairs += [(uid, (syntax,)) for uid in PROBED_CLASSES for syntax in PROBED_SYNTAXES]
    pairs += [(uid, TARGETS) for uid, _words in PROVING.values()]
    return [dimse.Proposal(2 * at + 1, *pair) for at, pair in enumerate(pairs)]


def _connected(far: Far) -> Step:
    where = f"{far.peer.host}:{far.peer.port}"
    return Step("connection", ok=True, detail=f"{where} accepts connections.")


def _protected(far: Far) -> list[Step]:
    """Say what TLS rests on, for a destination that uses it."""
    tls = far.peer.tls
    if tls is None:
        return []
    if tls.pin:
        trust = "its certificate is the pinned one"
    elif tls.verify:
        trust = f"its certificate is trusted and for {tls.server_name}"
    else:
        trust = "its certificate was not checked (tls_verify: false)"
    return [Step("tls", ok=True, detail=f"{far.name} speaks TLS, and {trust}.")]


def _associated(trial: _Trial) -> Step:
    far, most = trial.far, trial.association.most_pdu
    detail = f"{far.name} accepts associations from {far.peer.calling_ae}"
    return Step("association", ok=True, detail=f"{detail}, with PDUs of {most} bytes.")


def _echoed(trial: _Trial) -> Step:
    if 1 not in trial.association.contexts:
        return Step("echo", ok=False, detail=f"{trial.far.name} refuses C-ECHO.")
    try:
        status = trial.association.echo(1).status
    except dimse.DimseError as error:
        return Step("echo", ok=False, detail=trial.refusal(error))
    return Step("echo", ok=status == 0, detail=status_sentence(status, peer=trial.far.name))


def _proof(trial: _Trial, grade: str) -> list[Step]:
    """Say whether the peer offers what the grade takes."""
    if grade not in PROVING:
        return []
    uid, words = PROVING[grade]
    proposed = next(one for one in trial.proposals if one.abstract_syntax == uid)
    if proposed.context_id in trial.association.contexts:
        return [Step("proof", ok=True, detail=f"{trial.far.name} offers {words} ({grade}).")]
    detail = f"{trial.far.name} offers no {words}, which the proof {grade} takes."
    return [Step("proof", ok=False, detail=detail)]


def _contexts(trial: _Trial) -> Step:
    """Say which of the usual storage contexts are accepted."""
    accepted = trial.association.contexts
    taken: dict[str, list[str]] = {}
    for proposal in trial.proposals[1:]:
        if proposal.context_id in accepted:
            names = taken.setdefault(UID(proposal.abstract_syntax).name, [])
            names.append(UID(accepted[proposal.context_id]).name)
    listed = "; ".join(f"{name}: {', '.join(syntaxes)}" for name, syntaxes in taken.items())
    detail = f"Accepted are {listed}." if taken else "No usual storage SOP class is accepted."
    return Step("contexts", ok=bool(taken), detail=detail)


def _stored(trial: _Trial) -> Step:
    name = trial.far.name
    context = dimse.choose(
        dicom_test_object.SOP_CLASS,
        TARGETS,
        proposals=trial.proposals,
        accepted=trial.association.contexts,
    )
    if context is None:
        detail = f"{name} takes no uncompressed Secondary Capture, which the test object is."
        return Step("test object", ok=False, detail=detail)
    packed = dicom_test_object.parcel(*context)
    sent = trial.association.store(packed)
    if sent.response is None:
        words = trial.refusal(sent.failure or dimse.Lost("the association ended"))
        return Step("test object", ok=False, detail=words)
    status = sent.response.status
    went_well = classify(status) in (Outcome.DELIVERED, Outcome.WARNING)
    detail = status_sentence(status, peer=name, offending=sent.response.offending)
    if went_well:
        detail += (
            f" The object {packed.sop_instance_uid} of the patient ROUTER-TEST, study "
            f"{dicom_test_object.STUDY}, is a test and may be deleted there."
        )
    return Step("test object", ok=went_well, detail=detail)


# --- rehearsal -----------------------------------------------------------------------------------
def rehearse(
    far: Far, offers: Sequence[Offer], *, refusal: Words, is_excluded: Callable[[str], bool]
) -> Rehearsed:
    """Propose every offer as it would be when sending, and say what the peer answers (D11)."""
    leaving = [one for one in offers if not is_excluded(one.sop_class_uid)]
    agreed: dict[dimse.Plan, Mapping[int, str]] = {}
    keys = [(one.sop_class_uid, one.transfer_syntax) for one in leaving]
    for plan in dimse.plan(keys, far.preference):
        try:
            with dimse.associate(far.peer, plan.proposals, pace=dimse.Pace()) as association:
                agreed[plan] = association.contexts
        except dimse.DimseError as error:
            return Rehearsed((), refusal(error))
    trials = [
        _trial(far, offer, agreed)
        if offer in leaving
        else Trial(offer, "excluded", "", "It is not sent there by sop_classes.")
        for offer in offers
    ]
    return Rehearsed(tuple(trials))


def _trial(far: Far, offer: Offer, agreed: Mapping[dimse.Plan, Mapping[int, str]]) -> Trial:
    ways = far.preference.ways(offer.transfer_syntax)
    if not ways:
        detail = "It cannot be turned into a transfer syntax of transfer_syntax."
        return Trial(offer, "refused", "", detail)
    key = (offer.sop_class_uid, offer.transfer_syntax)
    plan, accepted = next(pair for pair in agreed.items() if key in pair[0].keys)
    found = dimse.choose(offer.sop_class_uid, ways, proposals=plan.proposals, accepted=accepted)
    if found is None:
        return Trial(offer, "refused", "", f"{far.name} accepts it in none of {_listed(ways)}.")
    name = UID(found[1]).name
    if found[1] == offer.transfer_syntax:
        return Trial(offer, "as_is", found[1], "It would leave as it is stored.")
    return Trial(offer, "turned", found[1], f"It would be turned into {name}.")


def _listed(ways: Sequence[str]) -> str:
    return ", ".join(UID(way).name for way in ways)
