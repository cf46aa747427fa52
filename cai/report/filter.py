"""What the confidence filter does to the data, as `filter.json` and in words.

A filter on confidence is not neutral. A judge can be surest where it is most biased, so that what is kept favours
long replies more than what was judged, and starves a principle or a source; this says so before anyone trains on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cai.config import RunConfig
from cai.judges.stages import thresholds
from cai.pipeline import digest, read_stage
from cai.report.filter_rows import Filter, Value
from cai.report.shift import summarise
from cai.report.status import shard_reports, whole_json
from cai.report.tally import tally
from cai.rounds import plays_itself
from cai.rows import Judgment
from cai.store import write_json

FORMAT = 1  # of filter.json; a file of another one is made again
POINTS = 3.0  # a smaller shift of a share is not worth a note …
GAP = 0.2  # … unless the coverage is so far from that of all pairs
NOTES = 4  # a group


def judge_stage(config: RunConfig) -> str:
    """The stage whose judgments become the preference pairs, in the first round of DPO where there are several.

    In self-play, where none do, the one that verifies revisions.
    """
    return "sft-judge" if config.recipe == "paper" and not plays_itself(config) else "judge"


def write_filter(config: RunConfig) -> dict[str, Any]:
    """Publish `<run>/filter.json`, with the fields of `cai.report.filter_rows.Filter`, and return what it holds.

    One pass over the judgments; none where the file is up to date. Raises StoreError where judgments are missing.
    """
    stage, path = judge_stage(config), config.root / "filter.json"
    rows = [report.rows.sha256 for report in shard_reports(config.root, stage)[: config.shards]]
    in_force = set(thresholds(config))
    threshold = in_force.pop() if len(in_force) == 1 else None
    only_samples = config.recipe == "direct" and "revision" not in config.pairs.sources
    inputs = digest(FORMAT, stage, rows, threshold, only_samples)
    done: dict[str, Any] | None = whole_json(path)
    if done is not None and done.get("inputs") == inputs:
        return done
    judgments = read_stage(config, stage, Judgment)
    if only_samples:  # judged revisions are then for the demonstrations alone
        judgments = (judgment for judgment in judgments if judgment.b.kind == "reply")
    found = summarise(tally(judgments), stage=stage, inputs=inputs, threshold=threshold)
    found = found.model_copy(update={"notes": tuple(notes_of(found))})
    write_json(path, found)
    return found.model_dump(mode="json")


def notes_of(found: Filter) -> Iterator[str]:
    """What a user should look at, in words: what the filter loses, and shifts that are clear and large enough."""
    if found.judged and not found.kept:
        yield f"The filter keeps none of {found.judged:,} judgments."
        return
    lost = {state: n for state, n in found.states.items() if state != "labelled"}
    if found.coverage.high is not None and found.coverage.high < 0.5:
        worst = max(lost, key=lambda state: lost[state])
        yield (
            f"The filter keeps {found.kept:,} of {found.judged:,} judgments ({_percent(found.coverage.rate)}); "
            f"the largest loss is {worst.replace('_', ' ')} ({lost[worst]:,})."
        )
    before, after, shift = found.length.before.longer_rate, found.length.after.longer_rate, found.length.shift
    if found.length.clear and before is not None and after is not None and abs(shift or 0) >= POINTS:
        verb = "raises" if after > before else "lowers"
        change = f"from {_percent(before)} to {_percent(after)}"
        yield f"The filter {verb} the share where the longer reply is chosen {change}."
    overall = found.after / found.before if found.before else 0.0
    for group in ("principle", "tag", "source", "kind"):
        yield from _group_notes(group, getattr(found, group), overall)


def _group_notes(group: str, values: Mapping[str, Value], overall: float) -> Iterator[str]:
    """The values that lose most, as far as they are worth a note; those that gain where none loses."""
    clear = {
        name: value
        for name, value in values.items()
        if value.clear and (abs(value.shift or 0) >= POINTS or abs(value.coverage - overall) >= GAP)
    }
    losers = sorted(
        (name for name in clear if clear[name].coverage < overall), key=lambda n: clear[n].coverage
    )
    for name in losers[:NOTES]:
        value = clear[name]
        kept = f"kept {value.after.n:,} of {value.before.n:,}"
        if value.coverage <= 0.05:
            word = "nearly vanishes" if value.after.n else "vanishes"
            yield f"{group.capitalize()} {name} {word} ({kept})."
            continue
        yield (
            f"{group.capitalize()} {name} loses {_percent(1 - value.coverage)} of its pairs ({kept}); "
            f"all pairs together lose {_percent(1 - overall)}."
        )
    if len(losers) > NOTES:
        yield f"So do {len(losers) - NOTES} more of {group}: see the table."
    if not losers:
        gainers = sorted(clear, key=lambda name: -(clear[name].shift or 0))
        for name in gainers[:NOTES]:
            share = clear[name].before.share, clear[name].after.share
            yield f"{group.capitalize()} {name} grows from {_percent(share[0])} to {_percent(share[1])} of the pairs."


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"
