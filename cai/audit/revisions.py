"""`cai audit revisions`: what critique and revision did to replies, chain by chain, without asking a model."""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cai.audit import leaks
from cai.audit.chains import WANTED, Chain, Step, chain_of, of_revision
from cai.audit.findings import Ledger, quote
from cai.audit.read import none_fits, read
from cai.audit.refusal import is_evasive
from cai.audit.runs import is_run, needs, run_rows
from cai.rows import Judgment, Revision
from cai.sources.records import BadRecord

NEAR = 0.95  # similarity of two texts, by words (Ratcliff and Obershelp), from which on a revision hardly revises
COMPARED = 3_000  # words of each text that are compared
GROWN = 3.0  # times as long, or as short, as the first reply …
BY = 200  # … and by more than so many characters

CHECKS = {
    "unchanged": ("the revision is the text that it revises", "revisions"),
    "near_unchanged": (f"nearly so: {NEAR:.0%} of the words or more are the same", "revisions"),
    "prefix_leak": ("it begins by announcing or labelling itself", "revisions"),
    "marker_leak": ("a marker or ruler of the transcript stands in it", "revisions"),
    "critique_leak": ("a run of words in it is the critique's", "revisions"),
    "meta_talk": ("it speaks of itself, the earlier text or the critique", "revisions"),
    "evasive": ("a bare refusal where the first reply was none", "chains"),
    "no_effect": ("after all rounds the text is the first reply", "chains"),
    "growth": (f"{GROWN:g} times as long or as short as the first reply", "chains"),
    "still_violating": ("the last critique, of a revised text, still finds a violation", "reread chains"),
    "regressed": ("the judge prefers the first reply", "judged chains"),
}


def audit_revisions(path: Path, ledger: Ledger) -> dict[str, Any]:
    """Look at every chain of a file or a run; returns its figures. Raises ConfigError where there is none."""
    counts: Counter[str] = Counter()
    ratios: Counter[int] = Counter()
    run = is_run(path)
    if not run:
        ledger.unmade("regressed", "nobody judged the chains of a file; audit the run's folder")
    for chain in _of_run(path, ledger) if run else _of_file(path, counts):
        counts["chains"] += 1
        counts["revisions"] += len(chain.steps)
        counts["unrevised"] += not chain.steps
        for step in chain.steps:
            _look_at_step(step, chain, ledger)
        _look_at_chain(chain, ledger, ratios)
    return {
        "chains": counts["chains"],
        "revisions": counts["revisions"],
        "unrevised": counts["unrevised"],
        "unusable": counts["unusable"],
        "length_ratio": {
            name: _quantile(ratios, q) for name, q in (("p10", 0.1), ("median", 0.5), ("p90", 0.9))
        },
    }


def _of_file(path: Path, counts: Counter[str]) -> Iterator[Chain]:
    seen: Mapping[str, Any] | None = None
    found = False
    for id, row in read(path):
        chain = None if isinstance(row, BadRecord) else chain_of(row, id)
        if seen is None and isinstance(row, dict):
            seen = row
        if chain is None:
            counts["unusable"] += 1
        else:
            found = True
            yield chain
    if not found:
        raise none_fits(path, seen, WANTED)


def _of_run(root: Path, ledger: Ledger) -> Iterator[Chain]:
    """Shard by shard; holds the labels, not the texts, of one shard's judgments."""
    needs(root, "revise")
    judgments = dict(run_rows(root, "judge", Judgment))
    labelled = 0
    for shard, revisions in run_rows(root, "revise", Revision):
        labels = {
            row.b.id: row.p
            for row in judgments.get(shard, ())
            if row.b.kind == "revision" and row.state == "labelled" and row.p is not None
        }
        labelled += len(labels)
        for revision in revisions:
            if (p := labels.get(revision.id)) is not None:
                ledger.look("regressed")
                if p > 0.5:
                    text = quote(revision.final)
                    ledger.found("regressed", revision.id, f"first reply better with p {p:.3f}: {text}")
            yield of_revision(revision)
    if not labelled:
        ledger.unmade("regressed", "the run has no labelled judgment of a reply and its revision")


def _look_at_step(step: Step, chain: Chain, ledger: Ledger) -> None:
    ledger.look("unchanged", "near_unchanged", "prefix_leak", "marker_leak", "critique_leak", "meta_talk")
    before, after = step.before.strip(), step.after.strip()
    known = f"{chain.prompt}\n{chain.initial}"
    if before.split() == after.split():
        ledger.found("unchanged", step.id, quote(after))
    elif (ratio := similarity(before, after)) >= NEAR:
        ledger.found("near_unchanged", step.id, f"similarity {ratio:.3f}: {quote(after)}")
    words = leaks.announcement(after)
    if words and words != leaks.announcement(chain.initial.strip()):
        ledger.found("prefix_leak", step.id, quote(after))
    if (at := leaks.marker(after, known)) is not None:
        ledger.found("marker_leak", step.id, quote(after, at))
    if run := leaks.critique_run(after, step.critique, f"{known}\n{before}"):
        ledger.found("critique_leak", step.id, quote(run))
    if (at := leaks.meta_talk(after, known)) is not None:
        ledger.found("meta_talk", step.id, quote(after, at))


def _look_at_chain(chain: Chain, ledger: Ledger, ratios: Counter[int]) -> None:
    if chain.reread and chain.last is not None:
        ledger.look("still_violating")
        if chain.last:
            ledger.found("still_violating", chain.id, quote(chain.final))
    if not chain.steps:
        return
    ledger.look("evasive", "no_effect", "growth")
    if is_evasive(chain.final, chain.prompt) and not is_evasive(chain.initial, chain.prompt):
        ledger.found("evasive", chain.id, quote(chain.final))
    if chain.initial.split() == chain.final.split():
        ledger.found("no_effect", chain.id, quote(chain.final))
    long, short = len(chain.final.strip()), len(chain.initial.strip())
    ratio = (long + 1) / (short + 1)
    ratios[round(50 * math.log(ratio))] += 1  # right to 1 %, in bounded memory
    if max(ratio, 1 / ratio) >= GROWN and abs(long - short) > BY:
        ledger.found(
            "growth", chain.id, f"{short:,} → {long:,} characters ({ratio:.2f} ×): {quote(chain.final)}"
        )


def similarity(a: str, b: str) -> float:
    """How alike two texts are by their words, in [0, 1]."""
    first, second = a.split()[:COMPARED], b.split()[:COMPARED]
    matcher = difflib.SequenceMatcher(None, first, second, autojunk=False)
    if matcher.real_quick_ratio() < NEAR or matcher.quick_ratio() < NEAR:  # bounds from above, and cheap
        return 0.0
    return matcher.ratio()


def _quantile(ratios: Counter[int], share: float) -> float | None:
    left = share * ratios.total()
    for step in sorted(ratios):
        left -= ratios[step]
        if left <= 0:
            return round(math.exp(step / 50), 2)
    return None
