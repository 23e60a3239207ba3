"""Configurations made at random by Hypothesis: right ones only, with awkward texts in them."""

from typing import cast

from hypothesis import strategies as st

from router.config import settings
from router.config.document import (
    BUILT_IN_ROLES,
    LIMIT_KEYS,
    SERVICES,
    Defaults,
    Destination,
    Document,
    Group,
    Role,
    Rule,
    Source,
)
from router.config.tree import Data
from router.destinations.fields import URGENCIES
from router.models import Balance, DuplicatePolicy, Permission, RuleState, Trigger, Unmatched

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
AWKWARD = ["on", "no", "true", "null", "~", "1e3", "0104", "2024-01-01", "1:30", "<<", "-", "é: #"]

names = st.sampled_from(["on", "yes", "null", "1", "-", "0x1F", "a" * 64]) | st.text(
    ALPHABET, min_size=1, max_size=12
)
titles = (
    st.text([chr(c) for c in range(0x20, 0x7F) if chr(c) != "\\"], min_size=1, max_size=16)
    .map(lambda text: text.strip(" "))
    .filter(bool)
)
texts = st.sampled_from(AWKWARD) | st.text(
    st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12
).filter(lambda text: bool(text.rstrip(" \x00")))
hosts = st.ip_addresses().map(str) | st.ip_addresses(network="10.0.0.0/8").map(
    lambda address: f"{address}/32".replace("/32", "")
)
seconds = st.integers(0, 100 * 86_400)
numbers = st.integers(-999_999, 999_999) | st.integers(-99_999, 99_999).map(lambda n: n / 4)


def leaves() -> st.SearchStrategy[Data]:
    """Conditions on one field."""
    one_value = st.fixed_dictionaries(
        {"field": st.just("PatientID"), "op": st.sampled_from(["equals", "not_equals"])}
        | {"value": texts | numbers}
    )
    pattern = st.fixed_dictionaries(
        {"field": st.just('(0019,xx10, "ACME 1.1")'), "op": st.just("contains"), "value": texts}
    )
    several = st.fixed_dictionaries(
        {"field": st.just("calling_ae"), "op": st.just("in")}
        | {"value": st.lists(texts | numbers, min_size=1, max_size=3)}
    )
    bare = st.fixed_dictionaries(
        {"field": st.just("(0008,0060)"), "op": st.sampled_from(["exists", "missing"])}
    )
    return cast("st.SearchStrategy[Data]", one_value | pattern | several | bare)


conditions = st.none() | st.recursive(
    leaves(),
    lambda below: st.one_of(
        st.fixed_dictionaries({"all": st.lists(below, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"any": st.lists(below, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"not": below}),
    ),
    max_leaves=5,
)


@st.composite
def sources(draw: st.DrawFn, name: str) -> Source:
    """A source of this name."""
    wanted = draw(st.sets(st.sampled_from(SERVICES), min_size=1))
    return Source(
        name=name,
        ae_title=draw(titles),
        enabled=draw(st.booleans()),
        hosts=tuple(draw(st.lists(hosts, max_size=2, unique=True))),
        services=tuple(service for service in SERVICES if service in wanted),
        duplicates=draw(st.sampled_from(DuplicatePolicy.values)),
    )


@st.composite
def destinations(draw: st.DrawFn, name: str, number: int) -> Destination:
    """A destination of this name; its AE title, if it has one, is that of no other number."""
    if draw(st.booleans()):
        kind = "dicom"
        given: dict[str, object] = {
            "host": draw(st.sampled_from(["127.0.0.1", "pacs.example", "0104", "::1"])),
            "port": draw(st.integers(1, 65535)),
            "ae_title": f"PEER{number}",
            "response_timeout": draw(st.sampled_from(["60s", "90s", "1h"])),
        }
    else:
        kind = "folder"
        given = {
            "path": draw(st.sampled_from(["/srv/out", "/srv/é #1: x", "/0"])),
            "mode": draw(st.sampled_from(["0640", "600"])),
        }
    given["urgency"] = draw(st.sampled_from(URGENCIES))
    given["associations"] = draw(st.integers(1, 16))
    given["outcomes"] = draw(st.sampled_from([{}, {"B007": "delivered"}, {"A7xx": "data_error"}]))
    canonical = settings.canonical(kind, given)
    return Destination(name, kind, draw(st.booleans()), canonical)


@st.composite
def groups(draw: st.DrawFn, name: str, places: list[Destination]) -> Group:
    """A group of this name, enabled only where a member is."""
    members = draw(st.lists(st.sampled_from(places), min_size=1, unique_by=lambda one: one.name))
    is_balance = draw(st.booleans())
    return Group(
        name=name,
        kind="balance" if is_balance else "failover",
        members=tuple(one.name for one in members),
        enabled=any(one.enabled for one in members) and draw(st.booleans()),
        by=draw(st.sampled_from(Balance.values)) if is_balance else "",
        returns=is_balance or draw(st.booleans()),
        patience=draw(seconds),
    )


@st.composite
def rules(draw: st.DrawFn, name: str, places: list[str]) -> Rule:
    """A rule of this name that sends to some of `places`."""
    send = draw(st.lists(st.sampled_from(places), unique=True)) if places else []
    return Rule(
        name=name,
        send=tuple(send),
        enabled=draw(st.booleans()),
        priority=draw(st.integers(-5, 200)),
        state=draw(st.sampled_from(RuleState.values)),
        when=draw(conditions),
        on=draw(st.sampled_from(Trigger.values)),
        quiet=draw(st.none() | seconds),
        urgency=draw(st.sampled_from(["", *URGENCIES])),
        stop=draw(st.booleans()),
    )


@st.composite
def roles(draw: st.DrawFn, name: str) -> Role:
    """A role of this name."""
    keys = draw(st.sets(st.sampled_from(LIMIT_KEYS[1:])))
    values = st.sets(texts, min_size=1, max_size=3).map(lambda found: tuple(sorted(found)))
    return Role(
        name=name,
        permissions=tuple(sorted(draw(st.sets(st.sampled_from(Permission.values), max_size=3)))),
        enabled=draw(st.booleans()),
        limit={key: draw(values) for key in LIMIT_KEYS if key in keys},
    )


@st.composite
def documents(draw: st.DrawFn) -> Document:
    """A whole configuration."""
    some = st.lists(names, max_size=3, unique=True)
    places, people = draw(some), [one for one in draw(some) if one not in BUILT_IN_ROLES]
    made = [draw(destinations(name, number)) for number, name in enumerate(places)]
    others = [one for one in draw(some) if one not in places] if made else []
    return Document(
        Defaults(draw(st.sampled_from(Unmatched.values)), draw(seconds), draw(seconds)),
        tuple(draw(sources(name)) for name in draw(some)),
        tuple(made),
        tuple(draw(groups(name, made)) for name in others),
        tuple(draw(rules(name, [*places, *others])) for name in draw(some)),
        tuple(draw(roles(name)) for name in people),
    ).ordered()
