"""The dataset that trainers take: one JSONL file a part, with a card that `datasets.load_dataset` understands.

`load_dataset("outputs/<run>/dataset", "preference")` has TRL's conversational `prompt`, `chosen`, `rejected`
columns, `load_dataset(…, "sft")` has `prompt`, `completion`; what else is known of a row stands in further columns.
A later round of DPO has a part of its own, `preference-2` …: its pairs, and those of earlier rounds that it replays.
"""

from __future__ import annotations

from collections import Counter
from itertools import chain
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from cai import __version__
from cai.config import RunConfig
from cai.constitution import load_constitution
from cai.errors import StoreError
from cai.judges.stages import thresholds
from cai.pipeline import read_stage
from cai.report.markdown import code, shown
from cai.report.status import shard_reports, stage_names, summed
from cai.rounds import plays_itself, rounds_of, stages_of
from cai.rows import Demonstration, Pair, Stepwise
from cai.stepwise import PART, parts
from cai.store import guard, write_rows, write_text

BLOCK = 1 << 20  # bytes that Arrow reads at a time, as it does by itself


def parts_of(config: RunConfig) -> tuple[str, ...]:
    """The parts that the dataset of a run has when it is finished."""
    return ("preference", "sft", *(one.part for one in rounds_of(config)[1:]), *parts(config))


def row_of(part: str) -> type[Pair] | type[Demonstration] | type[Stepwise]:
    """What the rows of a part are."""
    return Demonstration if part == "sft" else Stepwise if part == PART else Pair


def part_file(root: Path, part: str) -> Path:
    """Where a part of the dataset lies."""
    return root / "dataset" / part / "train.jsonl"


def export_run(config: RunConfig) -> dict[str, int]:
    """Publish every part whose stage is there, and the card. Returns rows by part.

    Raises StoreError where `datasets` reads back something else than was written.
    """
    counts: dict[str, int] = {}
    drops: Counter[tuple[str, str]] = Counter()
    for part in parts_of(config):
        stages = stages_of(config, part)
        if any(len(shard_reports(config.root, stage)) < config.shards for stage in stages):
            continue
        rows = chain.from_iterable(read_stage(config, stage, row_of(part)) for stage in stages)
        counts[part] = write_rows(part_file(config.root, part), rows).rows
    for stage in stage_names(config.judge.jury or config.judge.cascade, config.rounds, bool(config.stepwise)):
        for reason, count in summed(shard_reports(config.root, stage))["drops"].items():
            drops[stage, reason] += count
    write_card(config, counts, drops)
    for part, count in counts.items():
        if count:
            check_readable(config.root, part, count)
    return counts


def write_card(config: RunConfig, counts: dict[str, int], drops: Counter[tuple[str, str]]) -> None:
    """Write the card of a dataset: `counts`, rows by part; `drops`, rows by stage and reason."""
    constitution = load_constitution(config.constitution)
    environment = Environment(  # markdown, so no HTML escaping; what a file wrote goes through a filter
        loader=PackageLoader("cai", "report"),
        undefined=StrictUndefined,
        autoescape=False,
        keep_trailing_newline=True,
    )
    environment.filters.update(shown=shown, code=code)
    configs = [
        {
            "name": part,
            "rows": count,
            "columns": ", ".join(f"`{field}`" for field in row_of(part).model_fields),
        }
        for part, count in counts.items()
        if count
    ]
    roles = {"policy": config.policy.model, "critic": config.critic.model}
    roles |= {f"judge {n}" if n > 1 else "judge": name for n, name in enumerate(config.judge.judges, 1)}
    roles |= {"judge of steps": config.step_judge} if config.stepwise else {}
    text = environment.get_template("dataset_card.md.j2").render(
        name=config.name,
        version=__version__,
        prompts=summed(shard_reports(config.root, "prompts"))["rows_out"],
        constitution=constitution,
        recipe=config.recipe,
        seed=config.seed,
        threshold=", ".join(
            "–" if cut is None else f"{cut:.3f}" for cut in dict.fromkeys(thresholds(config))
        ),
        calibrated=config.judge.calibration is not None,
        clamp=config.judge.clamp,
        rounds=config.rounds,
        replay=config.dpo.replay if config.dpo else 0,
        plays_itself=plays_itself(config),
        configs=configs,
        stepwise=config.stepwise,
        models={role: config.models[name].model for role, name in roles.items()},
        drops=[(stage, reason, count) for (stage, reason), count in sorted(drops.items())],
    )
    write_text(config.root / "dataset" / "README.md", text)


def check_readable(root: Path, part: str, rows: int) -> None:
    """Read a part back with Arrow's JSON reader, which is what `datasets` reads it with, a block at a time.

    No row may reach over more than two blocks, so they are as large as the longest one. Raises StoreError where it
    cannot be read, or its rows are not those written.
    """
    from pyarrow import ArrowInvalid, json

    path = part_file(root, part)
    with guard(path), path.open("rb") as file:
        longest = max(map(len, file), default=0)
    try:
        with json.open_json(path, json.ReadOptions(block_size=max(BLOCK, longest))) as reader:
            found = sum(batch.num_rows for batch in reader)
    except ArrowInvalid as error:
        raise StoreError(f"{path}: Arrow cannot read it back ({str(error).splitlines()[0]})") from error
    if found != rows:
        raise StoreError(f"{path}: {rows} rows written, {found} read back")
