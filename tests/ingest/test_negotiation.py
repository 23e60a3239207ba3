"""Which contexts are taken, with which transfer syntax, and why others are not."""

import pytest

from ingest.negotiation import (
    KNOWN_TRANSFER_SYNTAXES,
    STORAGE_SOP_CLASSES,
    VERIFICATION,
    Proposal,
    Result,
    Roles,
    choose_transfer_syntax,
    negotiate,
    service_of,
)

CT = "1.2.840.10008.5.1.4.1.1.2"
IMPLICIT, EXPLICIT, BIG = (f"1.2.840.10008.1.2{end}" for end in ("", ".1", ".2"))
DEFLATED = "1.2.840.10008.1.2.1.99"
J2K, JPEG, HTJ2K = (f"1.2.840.10008.1.2.4.{end}" for end in ("90", "50", "201"))
COMMITMENT = "1.2.840.10008.1.20.1"
PRIVATE = "1.3.46.670589.5.0.1"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
BOTH = frozenset({"echo", "store"})


@pytest.mark.parametrize(
    ("proposed", "chosen"),
    [
        ([IMPLICIT], IMPLICIT),
        ([J2K, IMPLICIT], J2K),
        ([JPEG, EXPLICIT, IMPLICIT], JPEG),
        ([EXPLICIT, JPEG], EXPLICIT),
        ([IMPLICIT, JPEG], IMPLICIT),
        ([IMPLICIT, EXPLICIT, BIG], EXPLICIT),
        ([BIG, IMPLICIT], IMPLICIT),
        ([BIG], BIG),
        ([DEFLATED, EXPLICIT], DEFLATED),
        (["1.2.3.4", HTJ2K, EXPLICIT], HTJ2K),
        (["1.2.840.10008.1.2.8.1"], "1.2.840.10008.1.2.8.1"),
        (["1.2.3.4"], None),
        ([], None),
    ],
)
def test_the_transfer_syntax_that_leaves_the_data_alone(
    proposed: list[str], chosen: str | None
) -> None:
    assert choose_transfer_syntax(proposed) == chosen


@pytest.mark.parametrize(
    ("abstract", "services", "syntax", "result"),
    [
        (VERIFICATION, BOTH, IMPLICIT, Result.ACCEPTANCE),
        (CT, BOTH, HTJ2K, Result.ACCEPTANCE),
        (PRIVATE, BOTH, EXPLICIT, Result.ACCEPTANCE),
        (CT, frozenset({"echo"}), EXPLICIT, Result.USER_REJECTION),
        (CT, BOTH, "1.2.3", Result.TRANSFER_SYNTAXES_NOT_SUPPORTED),
        (STUDY_ROOT_FIND, BOTH, EXPLICIT, Result.ABSTRACT_SYNTAX_NOT_SUPPORTED),
        ("1.2.840.10008.1.20.1", BOTH, EXPLICIT, Result.ABSTRACT_SYNTAX_NOT_SUPPORTED),
        ("1.2..3", BOTH, EXPLICIT, Result.ABSTRACT_SYNTAX_NOT_SUPPORTED),
    ],
)
def test_results(abstract: str, services: frozenset[str], syntax: str, result: Result) -> None:
    ((context,), _) = negotiate([Proposal(1, abstract, (syntax,))], services, roles={})
    assert context.result is result
    assert (context.context_id, context.abstract_syntax) == (1, abstract)


def test_every_context_is_answered_for_itself() -> None:
    proposals = [Proposal(1, CT, (J2K,)), Proposal(3, CT, (IMPLICIT,)), Proposal(5, CT, ("1.2",))]
    contexts, _ = negotiate(proposals, BOTH, roles={})
    assert [(c.context_id, c.transfer_syntax, int(c.result)) for c in contexts] == [
        (1, J2K, 0),
        (3, IMPLICIT, 0),
        (5, "1.2", 4),
    ]


@pytest.mark.parametrize(
    ("role", "result", "answer"),
    [
        (Roles(scu=True, scp=False), 0, Roles(scu=True, scp=False)),
        (Roles(scu=True, scp=True), 0, Roles(scu=True, scp=False)),
        (Roles(scu=False, scp=True), 1, None),
        (Roles(scu=False, scp=False), 1, None),
    ],
)
def test_role_selection(role: Roles, result: int, answer: Roles | None) -> None:
    (context,), roles = negotiate([Proposal(1, CT, (IMPLICIT,))], BOTH, roles={CT: role})
    assert int(context.result) == result
    assert roles.get(CT) == answer


@pytest.mark.parametrize(
    ("role", "services", "is_reporter", "result"),
    [
        (Roles(scu=False, scp=True), {"commit"}, False, 0),
        (Roles(scu=True, scp=True), {"commit"}, False, 0),
        (Roles(scu=True, scp=False), {"commit"}, False, 1),
        (Roles(scu=True, scp=False), {"commit"}, True, 1),
        (Roles(scu=False, scp=True), {"echo", "store"}, False, 1),
        (None, {"commit"}, True, 0),
        (None, {"commit"}, False, 3),
        (None, {"echo", "store"}, False, 3),
    ],
)
def test_who_reports_on_commitments_is_their_scp(
    role: Roles | None, services: set[str], result: int, *, is_reporter: bool
) -> None:
    proposals = [Proposal(1, COMMITMENT, (IMPLICIT,))]
    (context,), roles = negotiate(
        proposals,
        frozenset(services),
        roles={COMMITMENT: role} if role else {},
        is_reporter=is_reporter,
    )
    assert int(context.result) == result
    expected = {COMMITMENT: Roles(scu=False, scp=True)} if role and not result else {}
    assert roles == expected


def test_the_dictionary_is_covered() -> None:
    assert len(STORAGE_SOP_CLASSES) > 190
    assert len(KNOWN_TRANSFER_SYNTAXES) >= 45
    assert {service_of(uid) for uid in STORAGE_SOP_CLASSES} == {"store"}
    assert service_of("1.2.840.10008.1.3.10") is None
