"""Template tags of the console: how a state, a UID, a name, a time or a size is written.

One place each, so that a thing looks the same on every page. Patient data goes through the tags
that know whether the reader may see it. No queries here.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from django import template
from django.http import QueryDict
from django.template import Context
from django.templatetags.static import static
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from pydicom.uid import UID
from pydicom.valuerep import PersonName

from router.models import Priority, Study
from router.services import clock

register = template.Library()

MASK = "•••••"
EMPTY = "–"  # noqa: RUF001 - a dash, as the eye expects it

# Word and icon of each state, everywhere the same; the colour is the class `state-<key>`.
STATES: dict[str, tuple[str, str]] = {
    "pending": ("waiting", "clock"),
    "waiting": ("waiting", "clock"),
    "leased": ("sending", "arrow-up-right"),
    "delivered": ("delivered", "check"),
    "warning": ("delivered with warning", "circle-alert"),
    "parked": ("needs attention", "hand"),
    "held": ("held", "pause"),
    "cancelled": ("cancelled", "x"),
    "unconfirmed": ("unconfirmed", "circle-help"),
    "disproved": ("proof failed", "hand"),
    "quarantined": ("quarantined", "shield"),
    "damaged": ("damaged", "hand"),
    "refused": ("refused", "ban"),
    "current": ("current", "check"),
    "stored": ("stored", "check"),
    "duplicate": ("identical duplicate", "layers"),
    "version": ("kept as a version", "layers"),
    "purged": ("discarded", "trash-2"),
    "open": ("open", "check"),
    "backoff": ("waits after a failure", "clock"),
    "stopped": ("stopped", "hand"),
    "disk-slow": ("disk fills up", "hand"),
    "disk-refuse": ("disk is full", "hand"),
    "failing": ("does not answer", "hand"),
    "overdue": ("overdue", "hand"),
    "gaps": ("gaps in the ledger", "hand"),
    "paused": ("paused", "pause"),
    "draining": ("draining", "clock"),
    "disabled": ("disabled", "x"),
    "alive": ("running", "check"),
    "silent": ("silent", "hand"),
    "draft": ("draft", "circle-help"),
    "shadow": ("shadow", "eye-off"),
    "live": ("live", "check"),
    "routed": ("routed", "arrow-right"),
    "archived": ("kept, no rule", "inbox"),
    "unmatched": ("no rule took it", "pause"),
    "undecided": ("not decided yet", "clock"),
    "urgent": ("urgent", "arrow-up"),
    "normal": ("normal priority", "info"),
    "low": ("low priority", "arrow-down"),
    "planning": ("being planned", "clock"),
    "planned": ("waits for a yes", "circle-help"),
    "running": ("running", "play"),
    "cancelling": ("being cancelled", "x"),
    "done": ("done", "check"),
    "discarded": ("discarded unsent", "x"),
    "failed": ("could not be planned", "hand"),
    "unreleased": ("to be sent", "clock"),
    "dropped": ("not sent after all", "x"),
    "there": ("there already", "circle-check"),
    "different": ("another in its place", "circle-alert"),
    "unknown": ("could not be asked for", "circle-help"),
    "on_way": ("on its way already", "arrow-up-right"),
    "on_hold": ("held by an earlier job", "pause"),
    "gone": ("destination removed", "x"),
}


@register.simple_tag
def icon(name: str, extra: str = "") -> SafeString:
    """Return an icon of the sprite; it says nothing to a screen reader, the text beside it does."""
    address = f"{static('icons.svg')}#{name}"
    return format_html(
        '<svg class="icon {}" aria-hidden="true" focusable="false"><use href="{}"></use></svg>',
        extra,
        address,
    )


@register.simple_tag
def state(key: str, count: int | None = None, word: str = "") -> SafeString:
    """Return the chip of a state: icon, an optional count, word."""
    usual, picture = STATES.get(key, (key, "info"))
    text = word or usual
    return format_html(
        '<span class="state state-{}">{}{}{}</span>',
        key,
        icon(picture),
        "" if count is None else f"{count:,} ",
        text,
    )


@register.simple_tag
def priority(value: int) -> SafeString:
    """Return the chip of a priority, nothing for the usual one."""
    found = Priority(value)
    if found == Priority.NORMAL:
        return SafeString("")
    return format_html(" {}", state(found.label.lower()))


@register.simple_tag
def uid(value: str) -> SafeString:
    """Return a UID, cut in its middle, with a button that copies all of it."""
    if not value:
        return format_html('<span class="muted">{}</span>', EMPTY)
    return format_html(
        '<span class="uid"><code title="{0}">{1}</code>{2}</span>', value, short(value), copy(value)
    )


@register.simple_tag
def copy(value: str, label: str = "Copy") -> SafeString:
    """Return a button that copies a text."""
    return format_html(
        '<button type="button" class="copy" data-copy="{}" aria-label="{}" title="{}">{}</button>',
        value,
        label,
        label,
        icon("copy"),
    )


@register.filter
def short(value: str, length: int = 26) -> str:
    """Cut the middle out of a long identifier."""
    if len(value) <= length:
        return value
    half = (length - 1) // 2
    return f"{value[:half]}…{value[-half:]}"


@register.simple_tag
def ago(moment: datetime | None, empty: str = EMPTY) -> SafeString:
    """Return the time since, or until, a moment, with the exact one as its title."""
    if moment is None:
        return format_html('<span class="muted">{}</span>', empty)
    return format_html(
        '<time class="nowrap" datetime="{}" title="{}">{}</time>',
        moment.isoformat(timespec="seconds"),
        f"{moment:%Y-%m-%d %H:%M:%S} UTC",
        relative(clock.now() - moment),
    )


@register.simple_tag
def next_try(moment: datetime | None) -> SafeString:
    """Return when something is tried again; a moment that has passed is due now."""
    if moment is None or moment <= clock.now():
        return SafeString("next try due now")
    return format_html("next try {}", ago(moment))


def relative(passed: timedelta) -> str:
    """Word a span of time: ``3 min ago``, ``in 4 min``, ``just now``."""
    seconds = passed.total_seconds()
    if -1 < seconds < 5:
        return "just now"
    words = span(abs(seconds))
    return f"{words} ago" if seconds > 0 else f"in {words}"


@register.filter
def span(seconds: float) -> str:
    """Word a number of seconds in the largest unit that fits."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


@register.filter
def size(value: float | None) -> str:
    """Word a number of bytes in binary units."""
    amount = float(value or 0)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.2f} TiB"


@register.filter
def thousands(value: int | None) -> str:
    """Write a whole number with separators."""
    return f"{value or 0:,}"


@register.filter
def objects(count: int | None) -> str:
    """Word a number of objects."""
    return "1 object" if count == 1 else f"{count or 0:,} objects"


@register.filter
def studies(count: int | None) -> str:
    """Word a number of studies."""
    return "1 study" if count == 1 else f"{count or 0:,} studies"


@register.filter
def get(query: QueryDict, name: str) -> str:
    """Return one value of an address."""
    return str(query.get(name, ""))


@register.filter
def code(status: int | None) -> str:
    """Write a DIMSE status as the Standard does: four hexadecimal digits (PS3.7 C)."""
    return "" if status is None else f"{status:04X}"


@register.filter
def uid_name(value: str) -> str:
    """Return what the Standard calls a UID; the UID itself where it is not in the Standard."""
    return str(UID(value).name)


@register.filter
def dicom_date(value: str) -> str:
    """Write a DA value (PS3.5 6.2) as a calendar date; anything else as it is."""
    digits = value.strip()
    if len(digits) == 8 and digits.isdigit():
        return f"{digits[:4]}-{digits[4:6]}-{digits[6:]}"
    return digits or EMPTY


@register.filter
def modalities(value: str) -> str:
    """Write a multi-valued modality with slashes."""
    return value.replace("\\", " / ") or EMPTY


@register.filter
def person(value: str) -> str:
    """Write a PN value (PS3.5 6.2.1.1) as ``SMITH, John (ideographic)``."""
    name = PersonName(value)
    family, given = name.family_name.upper(), name.given_name
    parts = ", ".join(part for part in (family, given) if part)
    ideographic = str(name.ideographic).replace("^", " ").strip()
    return f"{parts} ({ideographic})" if parts and ideographic else parts or ideographic or EMPTY


@register.simple_tag(takes_context=True)
def patient_name(context: Context, study: Study) -> str:
    """Write the patient's name, or a mask for a reader who may not see it."""
    return person(study.patient_name) if context.get("sees_patients") else MASK


@register.simple_tag(takes_context=True)
def patient_id(context: Context, study: Study) -> str:
    """Write the patient's id, or a mask."""
    return (study.patient_id or EMPTY) if context.get("sees_patients") else MASK


@register.simple_tag(takes_context=True)
def birth_date(context: Context, study: Study) -> str:
    """Write the patient's birth date, or a mask."""
    return dicom_date(study.patient_birth_date) if context.get("sees_patients") else MASK


@register.simple_tag
def sparkline(values: Sequence[int], name: str, label: str) -> SafeString:
    """Draw the last hours as bars; the words for a screen reader are ``label``."""
    highest = max([*values, 1])
    bars = format_html_join(
        "",
        '<rect x="{}" y="{}" width="8" height="{}" rx="1" opacity="{}"/>',
        [_bar(position, value, highest) for position, value in enumerate(values)],
    )
    return format_html(
        '<svg class="spark spark-{}" viewBox="0 0 {} 34" preserveAspectRatio="none" role="img" '
        'aria-label="{}" fill="currentColor">{}</svg>',
        name,
        len(values) * 10,
        label,
        bars,
    )


def _bar(position: int, value: int, highest: int) -> tuple[int, str, str, str]:
    height = max(30 * value / highest, 1.5)
    return position * 10 + 1, f"{34 - height:.1f}", f"{height:.1f}", "1" if value else "0.3"


@register.inclusion_tag("_sort.html", takes_context=True)
def sort(context: Context, key: str, label: str) -> dict[str, object]:
    """Write a column head that sorts by ``key``, and the other way when it does already."""
    listing = context["listing"]
    now = listing.sort.lstrip("-") == key
    other = key if listing.sort.startswith("-") else f"-{key}"
    return {
        "request": context["request"],
        "label": label,
        "now": now,
        "descending": listing.sort.startswith("-"),
        "next": other if now else key,
    }


@register.simple_tag(takes_context=True)
def without(context: Context, *names: str) -> str:
    """Return the address of this list without some of its filters, from its first page."""
    query = context["request"].GET.copy()
    for name in (*names, "after"):
        query.pop(name, None)
    return f"?{query.urlencode()}"
