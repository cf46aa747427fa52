"""One-token judging against JSON verdicts and samples: tokens and seconds per label on real vLLM, side by side.

The same labelled pairs of the embedded world are judged in both orders by the embedded model under each method,
on the path that a run takes: a managed server, `open_model`, the journal, `ask_verdicts`, `label`. Before each
method the server's prefix cache is emptied, so that none finds its prompts in another's, and there is an untimed
warm-up. Prints one JSON object. The embedded model never learned to write JSON: the grammar alone makes its
verdicts readable, so the accuracy under `stated` says nothing about judges that can.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from cai.config import JudgeConfig, ManagedConfig, ModelConfig, SamplingConfig
from cai.constitution import Principle
from cai.embedded import MODEL_DIR
from cai.embedded.splits import pair_rows
from cai.journal import Journal
from cai.judge.cases import hit
from cai.judge.label import JudgeRule, Label, label
from cai.models import open_model
from cai.models.managed import managed_key, managed_server
from cai.prompts import load_templates
from cai.rows import LabelledPair, VerdictMethod
from cai.shard.calls import Calls
from cai.stages.verdict import ask_verdicts

METHODS: tuple[VerdictMethod, ...] = ("logprobs", "stated", "samples")
TEMPLATES = str(MODEL_DIR.parent / "prompts")
WARM_UP = 8
LIMIT = 96
SERVER = ManagedConfig(
    args={"enforce-eager": True, "max-model-len": 2048, "max-num-seqs": LIMIT},
    env={"VLLM_SERVER_DEV_MODE": "1"},  # gives the server a way to empty its prefix cache
)


def draw_cases(seed: int, count: int) -> list[LabelledPair]:
    """`count` labelled pairs on held-out requests of the embedded world."""
    return [LabelledPair.model_validate(row) for row in pair_rows(seed, count)]


async def judge_all(cases: Sequence[LabelledPair], judge: JudgeConfig, calls: Calls) -> list[Label]:
    """The labels of all pairs, asked at once."""
    templates = load_templates(TEMPLATES)

    async def one(case: LabelledPair) -> Label:
        assert case.principle is not None  # every pair of the embedded world names one
        principle = Principle(id="labelled", statement=case.principle)
        verdicts = await ask_verdicts(
            judge, "judge", templates, row_id=case.id, turns=case.messages, a=case.a, b=case.b,
            principles=[principle], seed=0, ask=calls.ask,
        )  # fmt: skip
        return label(verdicts, [principle], JudgeRule())

    return list(await asyncio.gather(*(one(case) for case in cases)))


async def measure_all(
    cases: Sequence[LabelledPair], warm_up: Sequence[LabelledPair], endpoint: str | None
) -> dict[str, Any]:
    """Every method, one after the other, on one server: that at `endpoint`, else one of its own."""
    if endpoint is not None:
        return {method: await measure(method, cases, warm_up, endpoint) for method in METHODS}
    with tempfile.TemporaryDirectory() as folder:
        async with managed_server(str(MODEL_DIR), SERVER, Path(folder) / "vllm.log") as started:
            return await measure_all(cases, warm_up, started)


async def empty_cache(endpoint: str) -> None:
    """Make the server forget every prompt."""
    headers = {"Authorization": f"Bearer {managed_key(endpoint)}"}
    url = endpoint.removesuffix("/v1") + "/reset_prefix_cache"
    async with aiohttp.ClientSession(headers=headers) as session, session.post(url) as response:
        response.raise_for_status()


async def measure(
    method: VerdictMethod, cases: Sequence[LabelledPair], warm_up: Sequence[LabelledPair], endpoint: str
) -> dict[str, Any]:
    """Judge all cases by one method."""
    config = ModelConfig(backend="vllm", model=str(MODEL_DIR), managed=SERVER, max_concurrency=LIMIT)
    temperature = 1.0 if method == "samples" else 0.0
    judge = JudgeConfig(model="judge", method=method, sampling=SamplingConfig(temperature=temperature))
    with tempfile.TemporaryDirectory() as folder:
        model = open_model("judge", config, endpoint=endpoint)
        with Journal(Path(folder) / "warm-up.jsonl") as journal:
            await judge_all(warm_up, judge, Calls(model, journal, LIMIT))
        await empty_cache(endpoint)
        with Journal(Path(folder) / "calls.jsonl") as journal:
            calls = Calls(model, journal, LIMIT)
            start = time.perf_counter()
            labels = await judge_all(cases, judge, calls)
            seconds = time.perf_counter() - start
        await model.close()
    return {
        "calls": calls.tally.made,
        "prompt_tokens_per_label": round(calls.tally.prompt_tokens / len(cases), 1),
        "completion_tokens_per_label": round(calls.tally.completion_tokens / len(cases), 2),
        "seconds_per_label": round(seconds / len(cases), 5),
        "unscored": sum(found.p is None for found in labels),
        "accuracy": accuracy(cases, labels),
    }


def accuracy(cases: Sequence[LabelledPair], labels: Sequence[Label]) -> float:
    """Share of the clear pairs whose p lies on the right side of one half; a tie or no p is not right."""
    clear = [(case.gold, found.p) for case, found in zip(cases, labels, strict=True) if case.gold != "tie"]
    right = sum(p is not None and hit(p, gold) == 1 for gold, p in clear)
    return round(right / len(clear), 3)


def compare(pairs: int, seed: int, endpoint: str | None) -> dict[str, Any]:
    """All methods on the same pairs, and what a JSON verdict costs in units of a one-token answer."""
    cases, warm_up = draw_cases(seed, pairs), draw_cases(seed + 1, WARM_UP)
    found = asyncio.run(measure_all(cases, warm_up, endpoint))
    ratios = {
        name: round(found["stated"][name] / found["logprobs"][name], 2)
        for name in ("prompt_tokens_per_label", "completion_tokens_per_label", "seconds_per_label")
    }
    clear = sum(case.gold != "tie" for case in cases)
    return {"pairs": pairs, "clear_pairs": clear, **found, "stated_to_logprobs": ratios}


def main() -> None:
    """Parse the options, run, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--endpoint", help="a vLLM server of the embedded model with VLLM_SERVER_DEV_MODE=1")
    options = parser.parse_args()
    result = compare(options.pairs, options.seed, options.endpoint)
    sys.stdout.buffer.write(orjson.dumps(result, option=orjson.OPT_INDENT_2) + b"\n")


if __name__ == "__main__":
    main()
