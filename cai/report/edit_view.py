"""What an edit of the constitution changed, in lines for a terminal and for the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console

from cai.report.tables import plain

NAMED = 4  # changes in a line of the terminal
LABELS = {"gained": "gained", "lost": "lost", "flipped": "turned round"}


def print_edit(found: Mapping[str, Any], console: Console) -> None:
    """The edit and its consequences, a line each, and what speaks against them. `found`: what `edit.json` holds."""
    changes = [change_line(change) for change in found["changes"] if change["reaches"]]
    more = f" and {len(changes) - NAMED} more" if len(changes) > NAMED else ""
    lines = [", ".join(changes[:NAMED]) + more, "; ".join(_short(found)), *_doubts(found)]
    for number, line in enumerate(filter(None, lines)):
        console.print(plain(f"{'edit' if not number else '':<8} {line}"), soft_wrap=True, highlight=False)


def _short(found: Mapping[str, Any]) -> Iterator[str]:
    if revisions := found["revisions"]:
        met = revisions["met"]
        yield f"{met['moved']:,} of {met['both']:,} replies moved, {met['asked_again']:,} asked again"
    for stage, judgments in found["judgments"].items():
        met, of = judgments["met"], "" if stage == "judge" else f" of {stage}"
        yield f"{met['moved']:,} of {met['both']:,} comparisons{of} moved, {met['asked_again']:,} asked again"
        yield "labels: " + ", ".join(f"{judgments[how]:,} {word}" for how, word in LABELS.items())
    if pairs := found["pairs"]:
        yield f"pairs: {pairs['before']:,} before, {pairs['after']:,} now, {pairs['both']:,} in both"


def _doubts(found: Mapping[str, Any]) -> Iterator[str]:
    if found["config"]:
        yield f"the config changed as well, so not all of this is due to the edit: {', '.join(found['config'])}"
    if found["skipped"]:
        yield f"rows are not compared: {found['skipped']}"


def change_line(change: Mapping[str, Any]) -> str:
    """One change of the constitution in few words."""
    kind, name = change["kind"], change["principle"]
    if kind == "renamed":
        return f"{change['old']} renamed to {name}"
    if kind in ("reweighted", "retagged", "reprioritised", "reassigned"):
        old, new = (change[side] or "none" for side in ("old", "new"))
        return f"{name} {kind} ({old} → {new})"
    return f"{name} {kind}" + (f" ({change['field']})" if kind == "reworded" else "")


def lines_of(found: Mapping[str, Any]) -> Iterator[str]:
    """What came of the edit, in sentences."""
    yield from _doubts(found)
    if revisions := found["revisions"]:
        yield _met("replies", revisions)
        yield (
            f"critiques: of {revisions['critiques']:,} of the same reply under the same principle, "
            f"{revisions['found']:,} find a violation only now and {revisions['cleared']:,} no longer; "
            f"{revisions['rewritten']:,} revisions are other texts"
        )
    for stage, judgments in found["judgments"].items():
        yield _met("comparisons" if stage == "judge" else f"comparisons of {stage}", judgments)
        changed = ", ".join(f"{judgments[how]:,} {word}" for how, word in LABELS.items())
        yield f"labels: {changed}; p moved by more than 0.1 in {judgments['p_moved']:,}"
    if pairs := found["pairs"]:
        yield (
            f"pairs: {pairs['before']:,} before, {pairs['after']:,} now, {pairs['both']:,} in both, of these "
            f"{pairs['swapped']:,} turned round and {pairs['rewritten']:,} of other texts"
        )


def _met(what: str, found: Mapping[str, Any]) -> str:
    met = found["met"]
    line = f"{what}: {met['moved']:,} of {met['both']:,} moved to other principles"
    line += f", {met['reordered']:,} meet the same ones in another order" if met["reordered"] else ""
    line += f", {met['asked_again']:,} asked again under the same ones, {met['untouched']:,} untouched"
    line += f", {met['other_texts']:,} of other texts" if met["other_texts"] else ""
    came, went = found["after"] - met["both"], found["before"] - met["both"]
    return line + (f"; {came:,} came and {went:,} went" if came or went else "")
