"""The sections of the page, in order: only those that the run has something for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Section(NamedTuple):
    """`anchor`: the name within the page. `needs`: the part of the view without which it is left out, `absent`: why."""

    anchor: str
    title: str
    needs: str | None
    absent: str = ""

    @property
    def template(self) -> str:
        """The file that shows it."""
        return f"{self.anchor}.html.j2"


SECTIONS = (
    Section("lineage", "Where it comes from", None),
    Section("evaluation", "Did it help?", "rows", "no model was evaluated on held-out prompts"),
    Section("funnel", "From prompts to pairs", None),
    Section("rounds", "Rounds of DPO", "rounds", "the run has no rounds of DPO"),
    Section("coverage", "Principles", None),
    Section(
        "edit", "What the edit changed", "edit", "the constitution is not an edit of one that was run before"
    ),
    Section("trust", "May the judge be trusted?", "trust", "the judge was not measured on labelled pairs"),
    Section("judges", "Several judges", "judges", "there is one judge"),
    Section("filter", "What the filter keeps", None),
    Section(
        "lengths", "Length before and after the revision", "lengths", "no reply was changed by a revision"
    ),
    Section("tags", "Results by tag", "tags", "the prompts have no tags"),
    Section("training", "Training", "training", "nothing was trained"),
    Section("worst", "Worst offenders", "worst", "no revision and no judgment is done"),
    Section("examples", "Revisions, drawn at random", None),
)


def sections_of(view: Mapping[str, Any]) -> tuple[list[Section], list[Section]]:
    """The sections that this view fills, and those that it leaves out."""
    filled = [section for section in SECTIONS if section.needs is None or view[section.needs]]
    return filled, [section for section in SECTIONS if section not in filled]
