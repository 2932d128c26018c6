"""Pages in HTML, from the templates next to this file: one file each, without scripts or external resources.

All text from outside is made printable and escaped by the environment; only SVG from ``chart`` is marked as safe.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from detector.core.reference.standards import MAX_CONTRIBUTION
from detector.explain import plots
from detector.explain.explanation import Explanation, measure_names
from detector.explain.tables import contributions, events, facts, without_deviation
from detector.explain.words import UNIT, basis, headline, verdict
from detector.runtime.text import printable


def render(template: str, **values: Any) -> str:
    """Returns the page of ``templates/TEMPLATE``, well-formed XML after its first line."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("detector.explain"),
        autoescape=True,
        finalize=_printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["svg"] = Markup
    return environment


def _printable(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def page(explanation: Explanation) -> str:
    """Returns the page of an explanation."""
    drawn = explanation.main_measures
    parts: dict[str, Any] = {
        "heading": headline(explanation),
        "suspect": explanation.replay.verdict is not None,
        "verdict": verdict(explanation),
        "basis": basis(explanation),
        "facts": facts(explanation),
        "suspicion": plots.suspicion(explanation),
        "prada": [plots.prada_over_time(explanation), *plots.prada_distances(explanation)],
        "meters": [plot for plot in (plots.margin(explanation), plots.exposure(explanation)) if plot is not None],
        "events": events(explanation),
        "unit": UNIT,
        "most": f"{MAX_CONTRIBUTION:g}",
    }
    if explanation.has_profile:
        parts |= {
            "contributions": contributions(explanation),
            "without_deviation": without_deviation(explanation),
            "measures": plots.measures(explanation),
            "not_drawn": [name for name in measure_names(explanation.replay) if name not in drawn],
        }
    return render("explanation.html", has_profile=explanation.has_profile, **parts)
