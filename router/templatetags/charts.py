"""Charts of the console, drawn here as SVG: bars of what came beside bars of what went.

The words stand in HTML around the drawing, so that they keep their size on a small screen. No
queries here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from django import template
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from router.services.statistics import Bar

register = template.Library()

HEIGHT, STEP, GAP = 120.0, 30.0, 3.0
HOURLY = "%H:%M"
DAILY = "%Y-%m-%d"


@dataclass(frozen=True)
class Pair:
    """One step of a chart: its name and two numbers."""

    label: str
    came: int
    went: int


def pairs(bars: Sequence[Bar], figure: str) -> list[Pair]:
    """Return the steps of ``objects`` or ``studies``."""
    came, went = ("received", "delivered") if figure == "objects" else ("studies", "studies_sent")
    is_day = len({bar.start.date() for bar in bars}) == 1
    return [
        Pair(
            f"{bar.start:{HOURLY if is_day else DAILY}}",
            getattr(bar.total, came),
            getattr(bar.total, went),
        )
        for bar in bars
    ]


@register.simple_tag
def chart(bars: Sequence[Bar], figure: str, label: str) -> SafeString:
    """Draw ``objects`` or ``studies`` over the steps; ``label`` is for a screen reader."""
    steps = pairs(bars, figure)
    highest = max([1, *(max(step.came, step.went) for step in steps)])
    middle = steps[len(steps) // 2].label if len(steps) > 2 else ""
    return format_html(
        '<figure class="chart"><p class="chart-top num">{}</p>'
        '<svg viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
        '<p class="chart-axis num"><span>{}</span><span>{}</span><span>{}</span></p></figure>',
        f"{highest:,}",
        len(steps) * STEP,
        HEIGHT,
        label,
        _groups(steps, highest),
        steps[0].label,
        middle,
        steps[-1].label,
    )


def _groups(steps: Iterable[Pair], highest: int) -> SafeString:
    return format_html_join(
        "",
        '<g><title>{}: {} in, {} out</title><rect class="chart-back" x="{}" y="0" width="{}" '
        'height="{}"/><rect class="chart-came" x="{}" y="{}" width="{}" height="{}"/>'
        '<rect class="chart-went" x="{}" y="{}" width="{}" height="{}"/></g>',
        [
            (
                *(step.label, f"{step.came:,}", f"{step.went:,}"),
                *(number * STEP, STEP, HEIGHT),
                *_bar(number * STEP + GAP, step.came, highest),
                *_bar(number * STEP + STEP / 2, step.went, highest),
            )
            for number, step in enumerate(steps)
        ],
    )


def _bar(left: float, count: int, highest: int) -> tuple[str, str, str, str]:
    height = max(HEIGHT * count / highest, 1.0 if count else 0.0)
    return f"{left:.1f}", f"{HEIGHT - height:.1f}", f"{STEP / 2 - GAP:.1f}", f"{height:.1f}"
