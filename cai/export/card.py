"""The card of an export: README.md with the metadata that dataset hubs read, so that it loads by its folder's name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from cai.config import RunConfig, SourceConfig
from cai.config_file import validate_config
from cai.constitution import Constitution
from cai.errors import StoreError
from cai.export.facts import Facts
from cai.export.files import SUFFIXES
from cai.export.formats import FORMATS
from cai.export.loading import loading_of
from cai.export.record import Exported
from cai.printable import printable
from cai.report.markdown import MOST_NAME, shown
from cai.sources.records import origin

SHOWN = 40  # names of a group; the rest is summed up
_SIZES = [(1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")]


def card_of(status: Mapping[str, Any], found: Exported, facts: Facts) -> str:
    """The card of what was exported. `status`: the run's, as `run_status` reads it."""
    config = validate_config(status["config"], f"{found.run}/config.json")
    if status["constitution"] is None:
        raise StoreError(f"{found.run}: no constitution.json; let the run finish first")
    constitution = Constitution.model_validate(status["constitution"])
    form = FORMATS[found.format]
    environment = Environment(  # markdown: what comes from files goes through `shown`
        loader=PackageLoader("cai", "export"),
        undefined=StrictUndefined,
        autoescape=False,
        keep_trailing_newline=True,
    )
    judges = [config.models[name].model for name in config.judge.judges]
    return environment.get_template("card.md.j2").render(
        header=_header(config, found),
        run=shown(found.run),
        format=found.format,
        reader=form.reader,
        version=found.cai,
        part=found.part,
        finished=status["state"] == "finished",
        rows=[(split, count) for split, count in found.rows.items() if count],
        rows_total=sum(found.rows.values()),
        eval_share=found.eval_share,
        loading=loading_of(found.format, found.run),
        constitution={
            "name": shown(constitution.name),
            "version": shown(constitution.version),
            "digest": constitution.digest,
        },
        recipe=config.recipe,
        seed=config.seed,
        models=_models(config),
        sources=[_source(source) for source in config.prompts],
        facts=facts,
        pairs=form.part == "preference",
        labelled=form.part != "sft",
        lengths=list(facts.lengths.items()),
        histogram=facts.histogram,
        calibrated=config.judge.calibration is not None,
        groups=[
            (title, _most(counts))
            for title, counts in (
                ("source", facts.sources),
                ("principle", facts.principles),
                ("tag", facts.tags),
                ("step", facts.steps),
            )
            if counts
        ],
        drops=_drops(status, found),
        judged=_judged(status["qualification"]),
        same_model=form.part != "sft" and config.models[config.policy.model].model in judges,
        licences=_licences(config),
    )


def _header(config: RunConfig, found: Exported) -> str:
    """The YAML header. The licence stays open: that of the prompts alone does not decide it."""
    from huggingface_hub import DatasetCardData

    form = FORMATS[found.format]
    rows = sum(found.rows.values())
    files = [
        {"split": split, "path": f"{split}{SUFFIXES[form.kind]}"}
        for split, count in found.rows.items()
        if count
    ]
    options = {"keep_default_na": False} if form.kind == "csv" else {}  # a reply may be the word "null"
    data = DatasetCardData(
        license="other" if any(source.licence for source in config.prompts) else "unknown",
        annotations_creators=["machine-generated"],
        language_creators=["machine-generated"],
        size_categories=[next((name for limit, name in _SIZES if rows < limit), "n>1M")],
        task_categories=["text-generation"],
        tags=["constitutional-ai", "rlaif", "synthetic", *form.tags],
        pretty_name=printable(found.run)[:MOST_NAME],
        configs=[{"config_name": "default", "data_files": files, **options}],
    )
    return data.to_yaml().strip()


def _models(config: RunConfig) -> list[tuple[str, str]]:
    roles = [("policy", config.policy.model), ("critic", config.critic.model)]
    names = config.judge.judges
    roles += [(f"judge {n}" if len(names) > 1 else "judge", name) for n, name in enumerate(names, 1)]
    return [(role, shown(_portable(config.models[name].model))) for role, name in roles]


def _portable(model: str) -> str:
    """A model's name; of a folder of this machine its own name only."""
    return Path(model).name if Path(model).is_absolute() else model


def _source(source: SourceConfig) -> dict[str, str]:
    name = f"{source.dataset}, split {source.split}" if source.dataset else Path(origin(source)).name
    return {
        "origin": shown(name),
        "tags": shown(", ".join(source.tags)),
        "licence": shown(source.licence) if source.licence else "",
    }


def _licences(config: RunConfig) -> str:
    """What is known of the licences of the prompts, in one sentence."""
    unknown = [_source(source)["origin"] for source in config.prompts if not source.licence]
    if unknown:
        return f"The run's config states no licence for the prompts of {', '.join(unknown)}."
    return "The licences of the prompts are what the run's config states; nobody has checked them."


def _most(counts: Counter[str]) -> list[tuple[str, int]]:
    """The most frequent names, in a fixed order, and one line for the others."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rest = sum(count for _, count in ordered[SHOWN:])
    found = [(shown(name), count) for name, count in ordered[:SHOWN]]
    return [*found, (f"{len(ordered) - SHOWN} others", rest)] if rest else found


def _drops(status: Mapping[str, Any], found: Exported) -> list[tuple[str, str, int]]:
    """What this export leaves out, and what the run's stages dropped, by reason."""
    here = [("this export", reason, count) for reason, count in found.left_out.items()]
    stages = ("prompts", "generate", "revise", "judge", "pairs", "demonstrations", "steps", "stepwise")
    return here + [
        (f"stage {shown(stage)}", shown(reason), count)
        for stage, one in status["stages"].items()
        if stage in stages or stage.endswith(("-generate", "-judge", "-pairs"))
        for reason, count in one["drops"].items()
    ]


def _judged(qualification: Mapping[str, Any] | None) -> str:
    """How good the judge is known to be."""
    if not qualification or qualification.get("accuracy") is None:
        return "The judge was not measured on labelled pairs, so how often its labels are wrong is not known."
    low, high = qualification["accuracy_interval"]
    return (
        f"On {qualification['scored']} labelled pairs the judge was right in {100 * qualification['accuracy']:.1f} % "
        f"[{100 * low:.0f}, {100 * high:.0f}]; on other prompts it may do worse."
    )
