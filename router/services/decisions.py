"""Judge: match instances against the rules in force, and put together those that read alike.

Instances of one study for which every rule said the same for the same reason share one decision.
Refuses to write anything: what follows is `choosing`'s, and when to judge routing's business.
"""

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta

from router import storage
from router.dicom.errors import DicomError
from router.dicom.header import Header, unpack
from router.dicom.rules import Facts, Match, RuleSet, RuleSpec, compile_rules, match
from router.models import Association, ConfigRevision, Instance, RoutingDefaults, Rule
from router.services import archive

log = logging.getLogger(__name__)

# An object that is nowhere, or whose disk fails, is looked for this often before it is held: with
# the waits of routing, for about an hour.
MOST_TRIES = 60


as_json = json.JSONEncoder(check_circular=False, separators=(",", ":")).encode


@dataclass(frozen=True)
class Configuration:
    """The rules in force with their revision."""

    revision: int | None
    rules: RuleSet
    specs: dict[str, RuleSpec]
    unmatched: str
    quiet_cap: timedelta


@dataclass(slots=True)
class Arrival:
    """A marked instance, with what the rules may need of it."""

    mark: int
    tries: int
    instance: int
    study_id: int
    series_id: int
    size: int
    association: Association
    header: bytes | None


@dataclass
class Group:
    """Instances of one study for which every rule had the same outcome for the same reason."""

    explanation: str  # the JSON of dicom.rules.Match.explanation
    chosen: tuple[RuleSpec, ...]
    problem: str = ""
    arrivals: list[Arrival] = field(default_factory=list)


_cached: Configuration | None = None


def configuration() -> Configuration:
    """Return the rules in force; compiled anew only when the revision has changed."""
    global _cached
    revision = _newest_revision()
    while _cached is None or revision is None or _cached.revision != revision:
        _cached = _load(revision)
        if revision == (revision := _newest_revision()):
            break  # else a new one came while its rules were read
    return _cached


def _newest_revision() -> int | None:
    return ConfigRevision.objects.order_by("-number").values_list("number", flat=True).first()


def _load(revision: int | None) -> Configuration:
    defaults = RoutingDefaults.objects.first() or RoutingDefaults()
    specs = [_spec(rule, defaults) for rule in Rule.objects.order_by("priority", "name")]
    return Configuration(
        revision=revision,
        rules=compile_rules(specs),
        specs={spec.name: spec for spec in specs},
        unmatched=defaults.unmatched,
        quiet_cap=timedelta(seconds=defaults.quiet_cap_seconds),
    )


def _spec(rule: Rule, defaults: RoutingDefaults) -> RuleSpec:
    quiet = rule.quiet_seconds if rule.quiet_seconds is not None else defaults.quiet_seconds
    return RuleSpec(
        name=rule.name,
        priority=rule.priority,
        state=rule.state,  # type: ignore[arg-type] # the database constrains it
        when=rule.when,
        on=rule.trigger,  # type: ignore[arg-type]
        quiet_seconds=quiet,
        send=tuple(rule.send),
        transform=rule.transform or None,
        urgency=rule.urgency,
        stop=rule.stop,
        enabled=rule.enabled,
    )


def facts_of(header: Header, association: Association) -> Facts:
    """Return what the rules may look at: the header and the facts of its association."""
    return Facts(
        header=header,
        calling_ae=association.calling_ae,
        called_ae=association.called_ae,
        source=association.source,
        remote_host=association.remote_host,
        origin=association.origin,
    )


def explain(arrival: Arrival, config: Configuration) -> Match:
    """Match one stored instance.

    Raises:
        DicomError, OSError: its header cannot be read.
    """
    return match(config.rules, facts_of(_header(arrival), arrival.association))


def _header(arrival: Arrival) -> Header:
    """Return the header that came with the mark; of one without, the file's."""
    if arrival.header is not None:
        try:
            return unpack(arrival.header)
        except ValueError:  # of another release
            log.info("route.header_unpacked_anew", extra={"instance": arrival.instance})
    return archive.header_of(Instance.objects.get(pk=arrival.instance))


class _Texts:
    """Explanations as they are stored; instances that read alike share one, written once."""

    def __init__(self) -> None:
        self._texts: dict[int, tuple[Match, str]] = {}  # the match is held, so its id stays its own

    def of(self, found: Match) -> str:
        known = self._texts.get(id(found))
        if known is None:
            known = self._texts[id(found)] = found, as_json(found.explanation)
        return known[1]


def group_up(
    arrivals: Iterable[Arrival], config: Configuration
) -> tuple[list[Group], list[Arrival]]:
    """Match each instance; put those of one study with one explanation together.

    Returns:
        The groups, and the instances that could not be read now and must be tried again.
    """
    groups: dict[tuple[int, str, str], Group] = {}
    unread, texts = [], _Texts()
    for arrival in arrivals:
        found = _match_one(arrival, config)
        if found is None:
            unread.append(arrival)
            continue
        text, problem = ("[]", found) if isinstance(found, str) else (texts.of(found), "")
        chosen = () if isinstance(found, str) else found.chosen
        key = (arrival.study_id, text, problem)
        if key not in groups:
            groups[key] = Group(text, chosen, problem)
        groups[key].arrivals.append(arrival)
    return list(groups.values()), unread


def _match_one(arrival: Arrival, config: Configuration) -> Match | str | None:
    """Match one instance; None when its file may be readable later, else why it never will be."""
    problem: DicomError | OSError
    try:
        return explain(arrival, config)
    except DicomError as error:
        problem = error
    except OSError as error:
        if storage.is_passing(error) or arrival.tries < MOST_TRIES:
            facts = {"instance": arrival.instance, "error": type(error).__name__}
            log.warning("route.unread", extra=facts | {"tries": arrival.tries})
            return None
        problem = error
    log.error("route.unreadable", extra={"instance": arrival.instance}, exc_info=problem)
    return f"The object could not be read: {type(problem).__name__}."
