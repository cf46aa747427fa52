"""How many calls a prompt takes, stage by stage, from the config alone and the few shares that replies decide.

What a prompt asks is a product: replies, rounds of critique, pairs, principles, both orders, judges. The shares are
of the run's own rows where it has some; else they are the most there can be, unless they are given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cai.config import RunConfig, SourceConfig
from cai.constitution import Constitution, Use, draw
from cai.evaluate.compare import compare_stage
from cai.judges.qualification import is_gated, labelled_pairs
from cai.judges.stages import judge_stages, judged_sources, qualify_stage
from cai.pipeline import role_of
from cai.plan.calls import calls_a_step
from cai.plan.rates import rates_of
from cai.report.status import shard_reports, summed
from cai.rounds import plays_itself, rounds_of
from cai.rows import Drop, Prompt
from cai.sources import read_prompts
from cai.stages.combine import ROW_CAUSES
from cai.stepwise import step_stages


class Shares(NamedTuple):
    """What replies decide: `critiques` a reply, `violated` of critiques, `changed` of replies.

    `revise`, `judge`: principles that a row meets, on average over the sampled prompts. `origin`: where they are from.
    """

    critiques: float
    violated: float
    changed: float
    revise: float
    judge: float
    origin: str


class CallsAPrompt(NamedTuple):
    """Calls of one kind: `each` for every prompt, as `formula` says, and `fixed` whatever the prompts are."""

    stage: str
    kind: str
    model: str
    each: float
    fixed: int
    formula: str


def shares_of(
    config: RunConfig, constitution: Constitution, prompts: Sequence[Prompt], violated: float | None = None
) -> Shares:
    """The shares of a run. `violated`: the share of critiques that find something, where it is to be assumed."""
    most: dict[Use, int] = {"revise": config.critic.rounds, "judge": config.judge.principles}
    revise, judge = (
        sum(
            len(draw(constitution, seed=config.seed, row_id=prompt.id, use=use, tags=prompt.tags, k=k))
            for prompt in prompts
        )
        / len(prompts)
        for use, k in most.items()
    )
    rates = rates_of(config.root)
    if violated is None and rates.rounds is not None:
        return Shares(
            rates.rounds, rates.violated, rates.changed, revise, judge, "measured on the run's rows"
        )
    share = 1.0 if violated is None else violated
    if config.critic.stop_when_clean:
        critiques = sum(share**round_ for round_ in range(round(revise)))
        changed = share if revise else 0.0
    else:
        critiques, changed = revise, 1 - (1 - share) ** revise
    origin = "assumed, the most there can be" if violated is None else "given"
    return Shares(critiques, share, changed, revise, judge, origin)


def calls_a_prompt(config: RunConfig, constitution: Constitution, shares: Shares) -> list[CallsAPrompt]:
    """The calls of every stage of a run, in order. Replies that do not parse are asked again on top."""
    paper, n = config.recipe == "paper", config.policy.n
    found = [*_qualify(config, constitution), _policy(config, "generate", 1 if paper else n)]
    critic, revisions = config.critic.model, shares.critiques * shares.violated
    found += [
        CallsAPrompt("revise", "critique", critic, shares.critiques, 0, f"{shares.critiques:.4g} critiques"),
        CallsAPrompt(
            "revise", "revision", critic, revisions, 0,
            f"{shares.critiques:.4g} critiques × {shares.violated:.4g} that find something",
        ),
    ]  # fmt: skip
    found += [*_judge(config, "judge", shares), *_steps(config, "generate", n)]
    for one in rounds_of(config):
        found.append(_policy(config, one.generate, n))
        found += [] if plays_itself(config) else _judge(config, one.judge, shares)
        found += _steps(config, one.generate, n)
    if config.evaluate:
        models = ["base", *config.policies]
        asked = ["evaluate", *(["grade"] if config.evaluate.grader == "judge" else [])]
        prompts = _held_out(config, config.evaluate.sources)
        for stage in (f"{what}-{model}" for what in asked for model in models):
            found.append(
                CallsAPrompt(stage, stage, role_of(config, stage), 0.0, prompts, f"{prompts:,} held out")
            )
        found += _compare(config, prompts, shares)
    return found


def _policy(config: RunConfig, stage: str, n: int) -> CallsAPrompt:
    return CallsAPrompt(
        stage, stage, config.policy.model, float(n), 0, f"{n} {'replies' if n > 1 else 'reply'}"
    )


def _judge(config: RunConfig, stage: str, shares: Shares) -> list[CallsAPrompt]:
    """The judges of a stage: all pairs for each of a jury; of a cascade's later ones only what is open."""
    sources, n = judged_sources(config, stage), config.policy.n
    samples = math.comb(n, 2) if "samples" in sources else 0
    changed = shares.changed if "revision" in sources else 0.0
    terms = [f"{samples} of samples"] * bool(samples) + [f"{changed:.4g} revised"] * ("revision" in sources)
    each = calls_a_pair(config, shares.judge)
    factors = _factors(config, shares)
    found, left, reach = [], 1.0, ""
    before = None
    for name, model in judge_stages(config, stage).items():
        if config.judge.cascade and before is not None:
            left *= _open(config.root, before, name)
            reach = f" × {left:.4g} left open"
        formula = f"({' + '.join(terms) or '0'}) pairs × {factors}{reach}"
        found.append(CallsAPrompt(name, name, model, (samples + changed) * each * left, 0, formula))
        before = name
    return found


def _steps(config: RunConfig, generate: str, n: int) -> list[CallsAPrompt]:
    """The judge of steps: every step of every reply, the most there can be where none is known."""
    stages = step_stages(config, generate)
    if config.stepwise is None or not stages:
        return []
    steps, each = rates_of(config.root).steps or float(config.stepwise.max_steps), calls_a_step(config)
    formula = f"{n} replies × {steps:.4g} steps × {each} calls"
    return [CallsAPrompt(name, name, config.step_judge, n * steps * each, 0, formula) for name in stages]


def _factors(config: RunConfig, shares: Shares) -> str:
    """What one pair is multiplied by, in words."""
    factors = f"{shares.judge:.4g} principles × 2 orders"
    if config.judge.method == "samples":
        factors += f" × {config.judge.samples} samples"
    return factors + (" × 2 (reasoning, answer)" if config.judge.reasoning else "")


def _compare(config: RunConfig, prompts: int, shares: Shares) -> list[CallsAPrompt]:
    """The comparisons of models, each of all held-out prompts."""
    calls = round(prompts * calls_a_pair(config, shares.judge))
    formula = f"{prompts:,} held out × {_factors(config, shares)}"
    stages = map(compare_stage, config.compared)
    return [CallsAPrompt(stage, stage, role_of(config, stage), 0.0, calls, formula) for stage in stages]


def calls_a_pair(config: RunConfig, principles: float) -> float:
    """Calls that one judge takes for one pair under so many principles."""
    judge = config.judge
    return (
        principles * 2 * (judge.samples if judge.method == "samples" else 1) * (2 if judge.reasoning else 1)
    )


def _open(root: Path, before: str, stage: str) -> float:
    """The share of a cascade's pairs that go on to the next judge: of the run's own rows, else all."""
    asked, went = (_pairs(root, name) for name in (before, stage))
    return went / asked if asked else 1.0


def _pairs(root: Path, stage: str) -> int:
    total = summed(shard_reports(root, stage))
    lost: int = sum(count for reason, count in total["drops"].items() if reason in ROW_CAUSES)
    return int(total["rows_in"]) - lost


def _qualify(config: RunConfig, constitution: Constitution) -> list[CallsAPrompt]:
    if not is_gated(config):
        return []
    pairs = labelled_pairs(config, constitution)
    use = sum("judge" in principle.use for principle in constitution.principles)
    calls = sum(
        round(calls_a_pair(config, 1 if pair.principle else min(config.judge.principles, use)))
        for pair in pairs
    )
    names = {qualify_stage(judge): judge for judge in config.judge.judges}
    formula = f"{len(pairs):,} labelled pairs"
    return [CallsAPrompt(stage, stage, judge, 0.0, calls, formula) for stage, judge in names.items()]


def _held_out(config: RunConfig, sources: Sequence[SourceConfig]) -> int:
    """How many prompts are held out: those that the run has published, else those of the sources.

    Hub datasets count as their `limit`, where they have one, so that nothing is downloaded.
    """
    if reports := shard_reports(config.root, "held-out"):
        return int(summed(reports)["rows_out"])
    stated = [source.limit for source in sources if source.dataset and source.limit]
    read = [source for source in sources if not (source.dataset and source.limit)]
    return sum(stated) + sum(not isinstance(row, Drop) for row in (read_prompts(read) if read else ()))
