"""What the sections of a run config must be to each other; each check raises ValueError with the place and the fix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cai.config.keys import check_texts
from cai.config.training import POLICIES, REWARDED, refuse_rounds

if TYPE_CHECKING:
    from cai.config import RunConfig


def _roles(config: RunConfig) -> None:
    roles = [("policy.model", config.policy.model), ("critic.model", config.critic.model)]
    judges = [(config.judge.kind, name) for name in config.judge.judges]
    for role, name in (*roles, *judges, ("evaluate.judge", config.evaluation_judge)):
        if name not in config.models:
            raise ValueError(f"{role}: {name!r} is not under 'models' ({', '.join(config.models)})")


def _trainings(config: RunConfig) -> None:
    if config.recipe == "paper" and (config.sft is None or len(config.trained) < 2):
        raise ValueError(
            "recipe 'paper' samples from the SFT model, so it needs both 'sft' and 'dpo' sections "
            "(or another one that learns from pairs)"
        )
    if config.reward is None and (rewarded := [kind for kind in REWARDED if kind in config.trained]):
        raise ValueError(f"{rewarded[0]}: is rewarded by the run's own reward model; add a 'reward' section")
    if config.dpo is not None:
        others = [kind for kind in config.trained if kind not in ("sft", "dpo")]
        refuse_rounds(config.dpo, config.recipe, config.policy.n, others)


def _target(config: RunConfig) -> None:
    if config.pairs.target is None:
        return
    if config.recipe == "paper":
        raise ValueError(
            "pairs.target: recipe 'paper' judges samples of the SFT model, which is trained on all prompts "
            "first, so none can be drawn later; use recipe 'direct', or leave the target out"
        )
    if config.policy.n == 1 and "revision" not in config.pairs.sources:
        raise ValueError(
            "pairs.target: one reply a prompt gives no pair of samples; set policy.n to 2 or more, or add "
            "'revision' to pairs.sources"
        )


def _policy(config: RunConfig) -> None:
    name, policy = config.policy.model, config.models[config.policy.model]
    if config.trained and policy.backend != "vllm":
        raise ValueError(
            f"{'/'.join(config.trained)} trains the policy's weights; give the policy a vllm model, or leave it out"
        )
    if config.policies and (config.evaluate or config.recipe == "paper") and policy.managed is None:
        raise ValueError(
            f"models.{name}: a trained policy is served again, to be sampled or evaluated; "
            "give it 'managed' instead of 'endpoint'"
        )
    if config.trained and policy.adapter is not None:
        raise ValueError(
            f"models.{name}.adapter: training would start from the base without it; merge the "
            "adapter first and give the merged weights as 'model'"
        )
    if taken := {*POLICIES, *config.policies} & set(config.models):
        raise ValueError(f"models: the name {min(taken)!r} is kept for the trained policy; choose another")


def _workers(config: RunConfig) -> None:
    for name, model in config.models.items() if config.ray else ():
        assert config.ray is not None
        if model.mode == "batch":
            raise ValueError(
                f"models.{name}.mode: one process collects the requests of all shards into batches; "
                "leave out 'ray', or set mode: live"
            )
        if model.managed and model.managed.in_process:
            raise ValueError(
                f"models.{name}.managed.in_process: Ray's workers are other processes; leave it out, or give "
                "the 'endpoints' of running servers"
            )
        if config.ray.address is not None and model.managed is not None:
            raise ValueError(
                f"models.{name}.managed: it listens on this machine alone, and ray.address has workers on others; "
                "give the 'endpoints' of running servers, or leave the address out"
            )
        if model.max_concurrency < config.ray.workers:
            raise ValueError(
                f"models.{name}.max_concurrency: {model.max_concurrency} is less than one call for each of the "
                f"{config.ray.workers} of ray.workers; raise it, or take fewer workers"
            )


def _comparisons(config: RunConfig) -> None:
    policy = config.models[config.policy.model]
    if config.evaluate and config.evaluate.divergence and (policy.backend != "vllm" or policy.adapter):
        raise ValueError(
            "evaluate.divergence: loads the weights of the policy, a vllm model without adapter; leave it out"
        )
    known, seen = ("base", *config.policies), set[frozenset[str]]()
    for pair in config.compared:
        if unknown := [name for name in pair if name not in known]:
            raise ValueError(
                f"evaluate.side_by_side: the run evaluates no model {unknown[0]!r}, only {', '.join(known)}"
            )
        if len(set(pair)) < 2 or frozenset(pair) in seen:
            raise ValueError(
                f"evaluate.side_by_side: [{', '.join(pair)}] compares nothing new; name two models, each two once"
            )
        seen.add(frozenset(pair))


def _steps(config: RunConfig) -> None:
    if config.stepwise is None:
        return
    if config.step_judge not in config.models:
        raise ValueError(
            f"stepwise.judge: {config.step_judge!r} is not under 'models' ({', '.join(config.models)})"
        )
    if config.stepwise.judge is None and not config.judge.model:
        raise ValueError(
            f"stepwise: {config.judge.kind} has several judges, and steps have one; name it in stepwise.judge"
        )


def _different_judges(config: RunConfig) -> None:
    seen: dict[tuple[str, Path, str | None], str] = {}
    for name in config.judge.judges:
        model = config.models[name]
        first = seen.setdefault((model.backend, Path(model.model), model.adapter), name)
        if first != name:
            raise ValueError(
                f"{config.judge.kind}: {first!r} and {name!r} are one model ({model.backend} {model.model}), "
                f"and would only repeat each other; take another model for {name!r}, or leave it out"
            )


# In the order in which a user hears of them: one at a time, names first.
CHECKS: tuple[Callable[[RunConfig], None], ...] = (
    _roles,
    _trainings,
    _target,
    _policy,
    _workers,
    _comparisons,
    _steps,
    _different_judges,
    check_texts,
)
