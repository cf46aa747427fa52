"""What each principle of a constitution did in a run, as `coverage.json`: drawn, fired, mended, decided, agreed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cai.config import RunConfig
from cai.constitution import Constitution, Principle, Use
from cai.intervals import rate
from cai.judge.label import Label, label, pool
from cai.judges.stages import judge_rule, pool_rule, rule_key
from cai.pipeline import digest, read_stage, shards_of
from cai.report.coverage_findings import Rows, findings
from cai.report.coverage_rows import Coverage, Judging, Revising
from cai.report.coverage_tally import (
    Counts,
    Outcome,
    count_judgments,
    count_revisions,
    count_verified,
    empty_counts,
    verified,
)
from cai.report.filter_rows import Interval
from cai.report.status import judged_stages, shard_reports, whole_json
from cai.rows import Judgment, Revision, Verdict
from cai.runfolder.previous import stored_constitution
from cai.store import write_json

FORMAT = 1  # of coverage.json; a file of another one is made again


def write_coverage(config: RunConfig) -> dict[str, Any]:
    """Publish `<run>/coverage.json`, with the fields of `cai.report.coverage_rows.Coverage`; returns what it holds.

    One pass over revisions and judgments; none where the file is up to date. A stage that is not done (yet) counts
    nothing. Raises StoreError where a stage's rows or the stored constitution cannot be read.
    """
    constitution = stored_constitution(config.root)
    done = [stage for stage in ("revise", *judged_stages(config.rounds)) if _finished(config, stage)]
    shas = [[stage, [r.rows.sha256 for r in shard_reports(config.root, stage)]] for stage in done]
    rules = [rule_key(judge_rule(config, name)) for name in config.judge.judges]
    sizes = [config.critic.rounds, config.judge.principles, config.judge.kind, config.judge.judges]
    inputs = digest(FORMAT, shas, rules, sizes, constitution.model_dump(mode="json"))
    path = config.root / "coverage.json"
    known: dict[str, Any] | None = whole_json(path)
    if known is not None and known.get("inputs") == inputs:
        return known
    found = coverage_of(config, constitution, _count(config, constitution, done), inputs)
    write_json(path, found)
    return found.model_dump(mode="json")


def coverage_of(config: RunConfig, constitution: Constitution, counts: Counts, inputs: str) -> Coverage:
    """The figures of all counters, with the findings."""
    names = [principle.id for principle in constitution.principles]
    revising = {name: _revising(counts, name) for name in names}
    judging = {name: _judging(counts, name) for name in names}
    rows: dict[Use, Rows] = {
        "revise": Rows(counts.revise_tags, config.critic.rounds),
        "judge": Rows(counts.judge_tags, config.judge.principles),
    }
    return Coverage(
        inputs=inputs,
        replies=counts.revise_tags.total(),
        comparisons=counts.judge_tags.total(),
        revising=revising,
        judging=judging,
        findings=tuple(findings(constitution, rows, revising, judging)),
    )


def outcome_of(config: RunConfig) -> Outcome:
    """How the run's judges make a label of verdicts, as when they were asked."""
    rules = {name: judge_rule(config, name) for name in config.judge.judges}
    pooled = pool_rule(config) if config.judge.jury else None

    def outcome(verdicts: Sequence[Verdict], principles: Sequence[Principle]) -> Label:
        said = [
            label(own, principles, rules[name])
            for name in rules
            if (own := [verdict for verdict in verdicts if verdict.judge == name])
        ]
        if not said:
            return Label(None, "unparsed", None)
        return said[-1] if pooled is None else pool(said, pooled)

    return outcome


def _count(config: RunConfig, constitution: Constitution, done: Sequence[str]) -> Counts:
    counts, outcome = empty_counts(), outcome_of(config)
    principles = {principle.id: principle for principle in constitution.principles}

    def judgments(stage: str) -> Any:
        rows = read_stage(config, stage, Judgment) if stage in done else ()
        return count_judgments(counts, rows, principles, outcome)

    revisions = read_stage(config, "revise", Revision) if "revise" in done else ()
    count_verified(counts, count_revisions(counts, revisions), verified(judgments("judge")))
    for stage in judged_stages(config.rounds)[1:]:
        for _ in judgments(stage):
            pass
    return counts


def _finished(config: RunConfig, stage: str) -> bool:
    return len(shard_reports(config.root, stage)) >= shards_of(config, stage)


def _revising(counts: Counts, name: str) -> Revising:
    of = counts.of
    drawn, judged = of[name, "rounds"], of[name, "judged"]
    return Revising(
        drawn=drawn,
        violated=of[name, "violated"],
        revised=of[name, "revised"],
        judged=judged,
        better=of[name, "better"],
        worse=of[name, "worse"],
        undecided=of[name, "undecided"],
        violated_rate=_rate(of[name, "violated"], drawn),
        better_rate=_rate(of[name, "better"], judged),
    )


def _judging(counts: Counts, name: str) -> Judging:
    of = counts.of
    return Judging(
        drawn=of[name, "drawn"],
        unread=of[name, "unread"],
        inconsistent=of[name, "inconsistent"],
        labels=of[name, "labels"],
        decided=of[name, "decided"],
        compared=of[name, "compared"],
        agreed=of[name, "agreed"],
        decided_rate=_rate(of[name, "decided"], of[name, "labels"]),
        agreed_rate=_rate(of[name, "agreed"], of[name, "compared"]),
    )


def _rate(part: int, n: int) -> Interval:
    found = rate(part, n)
    return Interval(rate=found.rate, low=found.low, high=found.high, n=found.n)
