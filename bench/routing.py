"""The configuration that the product is measured with: 20 rules of 6 conditions, all evaluated.

Every condition differs from those of the other rules, so that none is answered from another's
result, and only the last of a rule that does not match is false.
"""

from collections.abc import Sequence

import yaml

RULES = 20
CONDITIONS = 6
MAKER = "GE MEDICAL SYSTEMS"


def rule(number: int, *, matches: bool, send: Sequence[str]) -> dict[str, object]:
    """Return one rule of six conditions."""
    pattern = f"{MAKER[: 1 + number % 10]}*{MAKER[-1 - number // 10 :]}"
    day = f"1990{1 + number % 12:02d}{1 + number // 12:02d}"
    last = 10 + number if matches else 100_000 + number
    conditions: list[dict[str, object]] = [
        {"field": "Modality", "op": "in", "value": ["CT", "MR", f"X{number}"]},
        {"field": "Manufacturer", "op": "matches", "value": pattern},
        {"field": "InstitutionName", "op": "regex", "value": f"IMAGING|SITE{number}"},
        {"field": "StudyDate", "op": "gte", "value": day},
        {"field": "StationName", "op": "not_equals", "value": f"ROOM{number}"},
        {"field": "Rows", "op": "gte", "value": last},
    ]
    return {
        "name": f"rule-{number:02d}",
        "priority": number,
        "state": "live",
        "when": {"all": conditions},
        "send": list(send),
    }


def rules(send: Sequence[str], *, matching: int = 1) -> list[dict[str, object]]:
    """Return the rules; the last `matching` of them take every instance of ours."""
    first = RULES - matching
    return [rule(n, matches=n >= first, send=send) for n in range(RULES)]


def destination(name: str, port: int, *, associations: int = 1) -> dict[str, object]:
    """Return a DICOM destination on loopback."""
    return {
        "name": name,
        "kind": "dicom",
        "host": "127.0.0.1",
        "port": port,
        "ae_title": name.upper(),
        "associations": associations,
    }


def document(ports: Sequence[int], *, enabled: bool = True) -> str:
    """Return the whole configuration: a destination a port, all of which get everything."""
    found = [destination(f"sink{n}", port) | {"enabled": enabled} for n, port in enumerate(ports)]
    names = [str(entry["name"]) for entry in found]
    content = {
        "version": 1,
        "defaults": {"unmatched": "archive"},
        "destinations": found,
        "rules": rules(names),
    }
    return yaml.safe_dump(content, sort_keys=False)
