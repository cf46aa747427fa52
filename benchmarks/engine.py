"""The pipeline on real vLLM against the engine's own offline loop, in tokens a second on the same requests.

The data stages of a config run through the managed server and through the in-process engine; then every request
that they made, read back from their journals, goes through `vllm.LLM.chat` with the same flags. Each repeat takes
prompts of its own, one set for the stages one after the other and one for the whole with overlapping shards, so no
prefix cache holds what is measured; the offline loop gets the lists of one stage after the other. It can
reorder and batch what the pipeline must ask in sequence, so 1.0 is a bound that nothing reaches by being lean.

    python -m benchmarks.engine --prompts 290 --repeats 2
    python -m benchmarks.engine --config my.yaml --model folder/with/config.json --dummy-weights
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import uvloop

from benchmarks.processes import cpu_by_role
from benchmarks.tables import Column, print_table, save
from cai.conduct.work import HERE
from cai.config import RunConfig
from cai.config_file import load_config
from cai.journal import Journal
from cai.judges.stages import judge_stages
from cai.models.base import Request
from cai.models.engine import engine_environment, engine_flags
from cai.pipeline import job_of, role_of
from cai.publish import write_prompts
from cai.serving import Endpoints, opened, serving
from cai.shard import ShardReport, shard_paths
from cai.shard.calls import Asked, key_of

ROOT = Path(__file__).parent.parent
WARM_UP = 16
WAYS = ("server", "in-process")
PROMPTS, REPEATS = 290, 2  # all that the embedded model's prompts are enough for


class Part(NamedTuple):
    """One set of prompts: a run config of its own. `kind`: `stages`, `whole` or `warm-up`."""

    config: RunConfig
    kind: str
    name: str


def parts(base: RunConfig, folder: Path, prompts: int, repeats: int, way: str) -> list[Part]:
    """A warm-up and two parts for each repeat, each on prompts that no other has."""
    lines: Iterable[str] = itertools.chain.from_iterable(
        Path(source.path or "").read_text("utf-8").splitlines() for source in base.prompts
    )
    kinds = [("warm-up", WARM_UP), *([("stages", prompts), ("whole", prompts)] * repeats)]
    found, left = [], iter(lines)
    for number, (kind, count) in enumerate(kinds):
        taken = list(itertools.islice(left, count))
        if len(taken) < count:
            raise SystemExit(f"the config's prompts are too few for {repeats} repeats of {prompts}")
        path = folder / f"prompts-{number}.jsonl"
        path.write_text("\n".join(taken) + "\n", encoding="utf-8")
        source = base.prompts[0].model_copy(update={"path": str(path)})
        changes = {"name": f"{way}-{number}", "outputs": str(folder), "prompts": (source,)}
        found.append(Part(base.model_copy(update=changes), kind, f"{number}-{kind}"))
    return found


def stages_of(config: RunConfig) -> list[str]:
    """The data stages, in order."""
    return ["generate", "revise", *judge_stages(config, "judge")]


async def run_way(way: str, work: Sequence[Part]) -> dict[str, Any]:
    """All parts on one engine. Gives start-up seconds and, for each part, what it and its stages took."""
    config = work[0].config
    started = time.monotonic()
    async with serving(config, [role_of(config, stage) for stage in stages_of(config)]) as endpoints:
        found: dict[str, Any] = {"start_s": time.monotonic() - started, "parts": {}}
        for part in work:
            write_prompts(part.config)
            done = {}
            if part.kind == "stages":
                for stage in stages_of(part.config):
                    done[stage] = await _timed(part.config, [stage], endpoints)
            else:
                done["whole"] = await _timed(part.config, stages_of(part.config), endpoints)
            found["parts"][part.name] = done
    return found


async def _timed(config: RunConfig, stages: Sequence[str], endpoints: Endpoints) -> dict[str, Any]:
    """Stages over all shards, as a run does them."""
    reports: list[ShardReport] = []

    async def chain(shard: int) -> None:
        for stage in stages:
            reports.append(await HERE.stage(config, stage, shard, endpoints))

    before, started = cpu_by_role(), time.monotonic()
    await asyncio.gather(*(chain(shard) for shard in range(config.shards)))
    seconds, after = time.monotonic() - started, cpu_by_role()
    return {
        "calls": sum(report.calls_made for report in reports),
        "seconds": seconds,
        "prompt_tokens": sum(report.prompt_tokens for report in reports),
        "completion_tokens": sum(report.completion_tokens for report in reports),
        "cached_tokens": sum(report.cached_tokens for report in reports),
        "cpu_s": {role: after[role] - before.get(role, 0.0) for role in after},
    }


async def recorded(config: RunConfig, stage: str) -> list[Request]:
    """Every request that a stage made, in the order of its rows, read back through its journals."""
    found: dict[str, Request] = {}
    nowhere = dict.fromkeys(config.models, "http://127.0.0.1:9/v1")
    served = config.model_copy(
        update={"models": {n: m.model_copy(update={"managed": None}) for n, m in config.models.items()}}
    )
    for shard in range(config.shards):
        async with opened(served, role_of(config, stage), nowhere) as model:
            job = job_of(config, stage, shard, model.identity)
        with Journal(shard_paths(config.root, stage, shard).journal, read_only=True) as journal:

            async def ask(request: Request, journal: Journal = journal, of: str = model.identity) -> Asked:
                key = key_of(request, of)
                completion = journal.get(key)
                assert completion is not None, f"stage {stage}: a request that the run never made"
                found.setdefault(key, request)
                return Asked(completion, key)

            for row in job.rows:
                await _replay(job.step, row, ask)
    return list(found.values())


async def _replay(step: Any, row: Any, ask: Any) -> None:
    """A row once more; one that was dropped for a reply that did not parse is dropped again."""
    from cai.shard.results import results_of

    await results_of("recorded", step, row, ask)


def offline(work: Sequence[Part], folder: Path) -> dict[str, Any]:
    """All recorded requests through the engine's own loop, in a process of its own."""
    config = work[0].config
    model = config.models[role_of(config, "generate")]
    assert model.managed is not None
    lists = {
        f"{part.name}/{stage}": [
            one.model_dump(mode="json") for one in asyncio.run(recorded(part.config, stage))
        ]
        for part in work
        for stage in stages_of(part.config)
    }
    warm_up = [one for name, some in lists.items() if name.startswith("0-") for one in some]
    task = {
        "flags": engine_flags(model.model, model.managed),
        "environment": engine_environment(model.model, model.managed),
        "warm_up": warm_up,
        "lists": {name: some for name, some in lists.items() if not name.startswith("0-")},
    }
    path = folder / "task.json"
    path.write_bytes(orjson.dumps(task))
    command = [sys.executable, "-m", "benchmarks.offline", str(path)]
    with (folder / "offline.log").open("wb") as log:
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, check=False)
    if done.returncode:
        raise SystemExit(f"the offline loop failed; see {folder / 'offline.log'}")
    return dict(orjson.loads(done.stdout))


def rate(measured: dict[str, Any]) -> float:
    """Tokens a second, read and written."""
    return float((measured["prompt_tokens"] + measured["completion_tokens"]) / measured["seconds"])


def summed(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One measurement for several lists that ran one after the other."""
    total = {
        name: sum(one[name] for one in found)
        for name in ("calls", "seconds", "prompt_tokens", "completion_tokens", "cached_tokens")
    }
    roles = {role for one in found for role in one["cpu_s"]}
    return total | {"cpu_s": {role: sum(one["cpu_s"].get(role, 0.0) for one in found) for role in roles}}


def compared(
    way: str, ours: dict[str, Any], theirs: dict[str, Any], work: Sequence[Part]
) -> list[dict[str, Any]]:
    """A row for each stage and for the whole: medians over the repeats of both sides and of their ratio."""
    stages = stages_of(work[0].config)
    pairs: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    for part in (part for part in work if part.kind != "warm-up"):
        lists = [theirs["lists"][f"{part.name}/{stage}"] for stage in stages]
        sides = zip(stages, lists, strict=True) if part.kind == "stages" else [("whole", summed(lists))]
        for stage, engine in sides:
            pairs.setdefault(stage, []).append((ours["parts"][part.name][stage], engine))
    rows = []
    for stage, found in pairs.items():
        last, engine = found[-1]
        calls = last["calls"] / 1000
        rows.append(
            {
                "way": way,
                "stage": stage,
                "calls": last["calls"],
                "same_requests": all(a["calls"] == b["calls"] for a, b in found),
                "same_prompt_tokens": all(a["prompt_tokens"] == b["prompt_tokens"] for a, b in found),
                "tokens_per_s": statistics.median(rate(a) for a, _ in found),
                "offline_tokens_per_s": statistics.median(rate(b) for _, b in found),
                "ratio": statistics.median(rate(a) / rate(b) for a, b in found),
                "client_cpu_s_per_1000": last["cpu_s"].get("client", 0.0) / calls,
                "server_cpu_s_per_1000": last["cpu_s"].get("server", 0.0) / calls,
                "engine_cpu_s_per_1000": last["cpu_s"].get("engine", 0.0) / calls,
                "offline_engine_cpu_s_per_1000": engine["cpu_s"].get("engine", 0.0) / calls,
                "cached_share": last["cached_tokens"] / max(last["prompt_tokens"], 1),
            }
        )
    return rows


COLUMNS = (
    Column("way", "way"),
    Column("stage", "stage"),
    Column("calls", "calls", "{:,.0f}"),
    Column("tokens_per_s", "tokens/s", "{:,.0f}"),
    Column("offline_tokens_per_s", "offline", "{:,.0f}"),
    Column("ratio", "ratio", "{:.2f}"),
    Column("client_cpu_s_per_1000", "client CPU s/1,000", "{:.2f}"),
    Column("server_cpu_s_per_1000", "server CPU s/1,000", "{:.2f}"),
    Column("engine_cpu_s_per_1000", "engine CPU s/1,000", "{:.2f}"),
    Column("offline_engine_cpu_s_per_1000", "engine CPU offline", "{:.2f}"),
    Column("cached_share", "cached", "{:.2f}"),
)


def configured(options: argparse.Namespace, way: str) -> RunConfig:
    """The config with what the options change; every model of it is the policy's."""
    config = load_config(options.config, options.overrides)
    name = config.policy.model
    model = config.models[name]
    assert model.managed is not None
    args = model.managed.args | ({"load-format": "dummy"} if options.dummy_weights else {})
    managed = model.managed.model_copy(update={"in_process": way == "in-process", "args": args})
    changes: dict[str, Any] = {"managed": managed} | ({"model": options.model} if options.model else {})
    roles = {role: getattr(config, role).model_copy(update={"model": name}) for role in ("critic", "judge")}
    return config.model_copy(update={"models": {name: model.model_copy(update=changes)}, **roles})


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all ways, then the offline loop on what each of them asked; print and save the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="flows/configs/embedded.yaml")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--model", help="another folder with a model than the config's")
    parser.add_argument("--dummy-weights", action="store_true", help="random weights; the folder needs none")
    parser.add_argument("--prompts", type=int, default=PROMPTS, help="of each part")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    options = parser.parse_args(arguments)
    found: dict[str, Any] = {"start_s": {}, "rows": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for way in options.ways:
            work = parts(configured(options, way), folder, options.prompts, options.repeats, way)
            ours = uvloop.run(run_way(way, work))
            theirs = offline(work, folder)
            found["start_s"] |= {way: ours["start_s"], "offline": theirs["start_s"]}
            found["rows"] += compared(way, ours, theirs, work)
    save("engine", found)
    if options.json:
        sys.stdout.buffer.write(orjson.dumps(found) + b"\n")
        return
    print_table("the pipeline against the engine's own offline loop", COLUMNS, found["rows"])
    starts = ", ".join(f"{way} {seconds:.1f} s" for way, seconds in found["start_s"].items())
    sys.stdout.write(f"start-up: {starts}\n")


if __name__ == "__main__":
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    main()
