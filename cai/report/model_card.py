"""The card of a trained model: where it comes from, what it was trained on, and what the evaluation found.

It lies as README.md in the model's folder, with the metadata that model hubs read. What is not known, the licence
of the weights among it, is not made up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from cai import __version__
from cai.config import RunConfig
from cai.config.training import kind_of
from cai.constitution import load_constitution
from cai.report.markdown import code, shown
from cai.report.status import read_json
from cai.rounds import plays_itself, rounds_of
from cai.store import write_text
from cai.train.plan import PLAN, REPORT

CARD = "README.md"


def write_model_cards(config: RunConfig, models: Sequence[str], evaluation: Mapping[str, Any]) -> list[Path]:
    """Write the card of every complete model of these names; returns where they are.

    `evaluation`: of these very models, as `write_evaluation` gives it; empty where there is none yet. Raises
    StoreError where a card cannot be written.
    """
    written = []
    for model in models:
        folder = config.root / "models" / model
        if (report := read_json(folder / REPORT)) is not None:
            write_text(folder / CARD, _card(config, model, folder, report, evaluation))
            written.append(folder / CARD)
    return written


def _card(
    config: RunConfig, model: str, folder: Path, report: dict[str, Any], evaluation: Mapping[str, Any]
) -> str:
    plan = yaml.safe_load((folder / PLAN).read_text(encoding="utf-8"))
    lineage = _lineage(config, model)
    rates = {name: found for name, found in evaluation.items() if name in ("base", "sft", *lineage)}
    if model not in rates:  # none yet, or a reward model, which writes no replies
        rates = {}
    environment = Environment(  # markdown, so no HTML escaping; what a file wrote goes through a filter
        loader=PackageLoader("cai", "report"),
        undefined=StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(shown=shown, code=code)
    return environment.get_template("model_card.md.j2").render(
        name=f"{config.name}-{model}",
        kind=kind_of(model),
        round=next((one for one in rounds_of(config) if one.model == model), None),
        rounds=config.rounds,
        lineage=lineage,
        plays_itself=plays_itself(config) and kind_of(model) == "dpo",
        version=__version__,
        metadata=_metadata(config, model, plan, rates),
        start=_shown(config, plan["model"]),
        data=_shown(config, plan["data"]),
        report=report,
        rows=(report.get("found") or {}).get("rows"),
        constitution=load_constitution(config.constitution),
        judges=[config.models[name].model for name in config.judge.judges],
        seed=config.seed,
        rates=rates,
        changes=_changes(evaluation, model) if rates else {},
        metrics=_metrics(rates),
        pairs=_pairs(evaluation, model),
        evaluation_judge=config.models[config.evaluation_judge].model,
        grader=None if config.evaluate is None else config.evaluate.grader,
    )


def _shown(config: RunConfig, place: str) -> str:
    """A file or model of the run by its place in the run's folder, so that the card says the same wherever it goes."""
    path, root = Path(place), config.root
    return str(path.relative_to(root)) if path.is_relative_to(root) else place


def _metrics(rates: dict[str, Any]) -> list[str]:
    """The metrics that a model was measured by, in the order of the evaluation."""
    names = {name: None for found in rates.values() for name, rate in found.items() if "rate" in rate}
    return [name for name in names if any(found[name]["rate"] is not None for found in rates.values())]


def _lineage(config: RunConfig, model: str) -> list[str]:
    """The models from the base to this one, each trained from the one before."""
    found = [model]
    while found[0] in config.trained_models:
        found.insert(0, config.start_of(found[0]))
    return found


def _changes(evaluation: Mapping[str, Any], model: str) -> dict[str, Any]:
    """What training changed against the base, where both were measured."""
    found: dict[str, Any] = evaluation.get("changes", {}).get(model, {})
    return {metric: change for metric, change in found.items() if change["difference"] is not None}


def _pairs(evaluation: Mapping[str, Any], model: str) -> dict[str, Any]:
    """The comparisons that the model was in, with a win rate."""
    found: dict[str, Any] = evaluation.get("side_by_side", {})
    return {
        name.replace("-vs-", " vs "): pair
        for name, pair in found.items()
        if model in (pair["model"], pair["opponent"]) and pair["win_rate"]["rate"] is not None
    }


def _metadata(config: RunConfig, model: str, plan: dict[str, Any], rates: dict[str, Any]) -> str:
    """The card's YAML header. A base model is named only where it has a name on a hub: a folder is nobody else's."""
    from huggingface_hub import EvalResult, ModelCardData

    base = config.models[config.policy.model].model
    found = [
        EvalResult(
            task_type="text-generation",
            dataset_type="held-out",
            dataset_name=f"held-out prompts of {config.name}",
            metric_type=metric,
            metric_value=rates[model][metric]["rate"],
        )
        for metric in _metrics(rates)
        if rates[model][metric]["rate"] is not None
    ]
    data = ModelCardData(
        base_model=None if Path(base).is_dir() else base,
        library_name="transformers",
        pipeline_tag="text-classification" if model == "reward" else "text-generation",
        tags=["constitutional-ai", "rlaif", "trl", kind_of(model)],
        model_name=f"{config.name}-{model}" if found else None,
        eval_results=found or None,
    )
    return data.to_yaml().strip()
