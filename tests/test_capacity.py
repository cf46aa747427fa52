"""Capacity: calls, hours and money against sums done by hand, and against what a run really asked."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.config import LimitsConfig, PriceConfig, RunConfig
from cai.config_file import validate_config
from cai.errors import ConfigError
from cai.plan.assumed import assumed
from cai.plan.capacity import make_capacity
from cai.plan.capacity_table import number, short
from cai.plan.need import Assumed, Capacity, Engine, Load, need
from cai.plan.speed import covered, gpus_of
from tests.flows.small import small_config, write_inputs
from tests.small_cli import cai

NOWHERE = "http://127.0.0.1:9/v1"


def small(folder: Path, **changes: Any) -> RunConfig:
    write_inputs(folder)
    return validate_config(small_config(folder, NOWHERE) | changes, "test")


def calls(found: Capacity) -> dict[str, float]:
    """Calls a prompt by kind; those that do not hang on the prompts as their number."""
    return {load.kind: load.each or load.fixed for load in found.loads}


MANAGED = {"toy": {"backend": "vllm", "model": "toy", "managed": {}}}
JURY = {"jury": ["toy", "x"], "principles": 2, "threshold": 0.6}
TWO = {
    name: {"backend": "vllm", "model": name, "endpoint": NOWHERE, "max_concurrency": 8}
    for name in ("toy", "x")
}


@pytest.mark.parametrize(
    ("changes", "violated", "expected"),
    [
        # n 2, 2 rounds; 1 pair of samples (the dataset is for SFT only where there is a section sft), 1 revised
        ({}, None, {"generate": 2, "critique": 2, "revision": 2, "judge": (1 + 1) * 2 * 2}),
        # a critique that finds something in half of the cases: 1 + 0.5 critiques, half of them revise
        ({}, 0.5, {"generate": 2, "critique": 1.5, "revision": 0.75, "judge": (1 + 0.5) * 2 * 2}),
        # every round is run: 3 critiques a reply, changed unless none of three finds anything; 3 of 3 principles
        (
            {"critic": {"model": "toy", "rounds": 5, "stop_when_clean": False}},
            0.5,
            {"generate": 2, "critique": 3, "revision": 1.5, "judge": (1 + 0.875) * 2 * 2},
        ),
        # three replies make three pairs; reasoning asks twice
        (
            {"policy": {"model": "toy", "n": 3}, "judge": {"model": "toy", "reasoning": True}},
            0.0,
            {"generate": 3, "critique": 1, "revision": 0, "judge": 3 * 1 * 2 * 2},
        ),
        # five samples an order
        (
            {"judge": {"model": "toy", "method": "samples", "sampling": {"temperature": 1.0}}},
            1.0,
            {"generate": 2, "critique": 2, "revision": 2, "judge": 2 * 2 * 5},
        ),
        # each judge of a jury is asked everything; of a cascade at most everything
        (
            {"models": TWO, "judge": JURY},
            1.0,
            {"generate": 2, "critique": 2, "revision": 2, "judge-toy": 8, "judge-x": 8},
        ),
        (
            {"models": TWO, "judge": {"cascade": ["toy", "x"]}, "pairs": {"sources": ["samples"]}},
            1.0,
            {"generate": 2, "critique": 2, "revision": 2, "judge-toy": 2, "judge-x": 2},
        ),
        # paper: one reply to revise, its revision judged; then n samples of the SFT model and their pairs
        (
            {"recipe": "paper", "sft": {}, "dpo": {}, "models": MANAGED, "policy": {"model": "toy", "n": 4}},
            0.5,
            {"generate": 1, "critique": 1.5, "revision": 0.75, "judge": 0.5 * 4, "sft-generate": 4, "sft-judge": 24},
        ),
    ],
)  # fmt: skip
def test_calls_a_prompt(
    changes: dict[str, Any], violated: float | None, expected: dict[str, float], tmp_path: Path
) -> None:
    """Products of the config's own numbers, done by hand."""
    found = make_capacity(small(tmp_path, **changes), [1], Assumed(violated=violated))
    assert calls(found) == pytest.approx(expected)


def test_evaluation_and_qualification_are_fixed(tmp_path: Path) -> None:
    """Held-out prompts are asked of each model and graded once each, labelled pairs once, whatever the prompts are."""
    write_inputs(tmp_path)
    held = [{"id": f"h{n}", "prompt": f"Hold {n}?", "tags": ["helpful"]} for n in range(4)]
    (tmp_path / "held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held))
    pairs = [{"id": f"l{n}", "prompt": "Hi?", "a": "Yes.", "b": "No.", "gold": "A"} for n in range(3)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    config = small(
        tmp_path,
        sft={},
        models=MANAGED,
        evaluate={"grader": "judge", "sources": [{"path": str(tmp_path / "held.jsonl")}]},
        judge={
            "model": "toy", "principles": 2, "require_qualification": True,
            "labelled": str(tmp_path / "pairs.jsonl"),
        },
    )  # fmt: skip
    for prompts in (10, 1000):
        found = make_capacity(config, [prompts])
        fixed = {need.kind: need.calls for need in found.sizes[0].needs}
        assert fixed["qualify-toy"] == 3 * 2 * 2
        assert [fixed[f"{what}-{m}"] for what in ("evaluate", "grade") for m in ("base", "sft")] == [4] * 4
        assert fixed["generate"] == 2 * prompts and "evaluate-dpo" not in fixed


LOAD = Load(
    stage="judge", kind="judge", model="m", each=4.0, fixed=100, formula="", prompt_tokens=900.0,
    completion_tokens=10.0, cached=0.5, tokens_from="measured",
)  # fmt: skip
ENGINE = Engine(
    model="m", hosted=False, rate=(9000.0, 1000.0), rate_from="given", gpus=4.0, utilisation=0.5, gpu_hour_usd=2.0,
    price=None, limits=None, batch=False, discount=0.0,
)  # fmt: skip


def test_hours_and_money_of_gpus() -> None:
    """4,100 calls of 450 tokens that are not cached at 9,000/s and 10 at 1,000/s: 0.06 s each, at half speed 0.12."""
    found = need(LOAD, ENGINE, 1000)
    assert (found.calls, found.prompt_tokens, found.completion_tokens) == (4100, 3_690_000, 41_000)
    assert found.gpu_hours == pytest.approx(4100 * 0.06 / 0.5 / 3600)
    assert found.hours == pytest.approx(4100 * 0.06 / 0.5 / 3600 / 4)
    assert found.usd == pytest.approx(4100 * 0.06 / 0.5 / 3600 * 2)
    measured = ENGINE.model_copy(update={"rate": (910.0, 910.0), "rate_from": "measured", "utilisation": 1.0})
    assert need(LOAD, measured, 1000).gpu_hours == pytest.approx(4100 / 3600)  # the rate has the cache in it
    unknown = need(LOAD, ENGINE.model_copy(update={"rate": None}), 1000)
    assert (unknown.gpu_hours, unknown.hours, unknown.usd) == (None, None, None)


def test_hours_and_money_of_a_hosted_model() -> None:
    """4,100 calls at 50 a minute are 82 minutes, 3.731 M tokens at 30,000 a minute 124.4: the longer counts."""
    hosted = ENGINE.model_copy(
        update={
            "hosted": True, "rate": None, "rate_from": None, "gpu_hour_usd": None,
            "price": PriceConfig(input=2.0, output=8.0, cached_input=0.5),
            "limits": LimitsConfig(requests_per_minute=50, tokens_per_minute=30_000),
        }
    )  # fmt: skip
    found = need(LOAD, hosted, 1000)
    assert found.gpu_hours is None and found.hours == pytest.approx(3_731_000 / 30_000 / 60)
    dollars = (1_845_000 * 2.0 + 1_845_000 * 0.5 + 41_000 * 8.0) / 1e6
    assert found.usd == pytest.approx(dollars)
    calls_only = hosted.model_copy(update={"limits": LimitsConfig(requests_per_minute=50)})
    assert need(LOAD, calls_only, 1000).hours == pytest.approx(82 / 60)
    batch = hosted.model_copy(update={"batch": True, "discount": 0.5})
    assert need(LOAD, batch, 1000).hours is None and need(LOAD, batch, 1000).usd == pytest.approx(dollars / 2)


def test_tokens_of_stand_ins_follow_the_options(tmp_path: Path) -> None:
    """A prompt of 100 tokens, replies of a quarter of 32: critics read them, judges read two of them."""
    config = small(tmp_path)
    found = make_capacity(config, [10], Assumed(prompt_tokens=100, reply_share=0.25))
    tokens = {load.kind: (load.prompt_tokens, load.completion_tokens) for load in found.loads}
    assert tokens["generate"] == (100, 8) and found.prompts_from == "--prompt-tokens"
    assert tokens["critique"][1] == tokens["revision"][1] == 16 and tokens["judge"][1] == 1
    longer = make_capacity(config, [10], Assumed(prompt_tokens=100, reply_share=0.5))
    more = {load.kind: load.prompt_tokens for load in longer.loads}
    assert more["judge"] - tokens["judge"][0] == pytest.approx(16, abs=0.3)  # two replies of 8 tokens more
    assert more["critique"] - tokens["critique"][0] == pytest.approx(
        (8 + 16) / 2, abs=0.3
    )  # a reply, a revision
    read = make_capacity(config, [10])
    assert (read.prompts_from, read.prompts_seen) == ("the config's sources", 24)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=8))
def test_covered_time_is_what_is_covered(spans: list[tuple[int, int]]) -> None:
    """Unit by unit: each counts once, however many intervals it lies in."""
    ordered = [(min(span), max(span)) for span in spans]
    assert covered([(float(a), float(b)) for a, b in ordered]) == len(
        {t for a, b in ordered for t in range(a, b)}
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0.00"), (999.4, "999.40"), (1234, "1.23k"), (2e6, "2M"), (3.43e12, "3.43T"), (4e15, "4,000T"),
    ],
)  # fmt: skip
def test_short_figures(value: float, text: str) -> None:
    """Three figures and a unit."""
    assert short(value, 2) == text
    assert number(1234.5) == "1,234.5" and number(2.0) == "2"


def test_gpus_of_a_config(tmp_path: Path) -> None:
    """What a managed server is started on, or one an endpoint."""
    model = small(tmp_path).models["toy"]
    assert gpus_of(model) == 1
    several = model.model_copy(update={"endpoint": None, "endpoints": ("http://a/v1", "http://b/v1")})
    assert gpus_of(several) == 2
    args = {"tensor-parallel-size": 2, "data-parallel-size": 4}
    managed = validate_config(
        small_config(tmp_path, NOWHERE)
        | {"models": {"toy": {"backend": "vllm", "model": "toy", "managed": {"args": args}}}},
        "test",
    )
    assert gpus_of(managed.models["toy"]) == 8


def options(config: RunConfig, rates: list[str], gpus: list[str]) -> Assumed:
    return assumed(
        config,
        rates,
        gpus,
        gpu_hour_usd=None,
        utilisation=1.0,
        violated=None,
        reply_share=1.0,
        prompt_tokens=None,
    )


def test_options_are_by_model_or_for_all(tmp_path: Path) -> None:
    """A rate of a model goes before the one of all."""
    found = options(small(tmp_path), ["100/10", "toy=200/20"], ["2"])
    assert found.rates == {"": (100, 10), "toy": (200, 20)} and found.gpus == {"": 2}


@pytest.mark.parametrize(
    ("rates", "gpus", "message"),
    [
        (["toi=1/2"], [], "--rate toi=1/2: no model 'toi' in the config (toy)"),
        (["100"], [], "--rate 100: give [MODEL=]PREFILL/DECODE"),
        (["100/x"], [], "--rate 100/x: give a number"),
        (["0/1"], [], "--rate 0/1: give a number above 0"),
        ([], ["toy=nan"], "--gpus toy=nan: give a number above 0"),
        ([], ["inf"], "--gpus inf: give a number above 0"),
    ],
)
def test_options_that_are_wrong(rates: list[str], gpus: list[str], message: str, tmp_path: Path) -> None:
    """One line with option, value and fix."""
    with pytest.raises(ConfigError) as error:
        options(small(tmp_path), rates, gpus)
    assert message in str(error.value)


def test_on_the_command_line(tmp_path: Path) -> None:
    """A table with the formula, JSON with the same figures, and nothing asked or left behind."""
    config = small(tmp_path)
    path = tmp_path / "config.yaml"
    path.write_text(config.model_dump_json(exclude_none=True))
    stated = ["--rate", "toy=1000/100", "--gpus", "2", "--gpu-hour-usd", "3", "--prompt-tokens", "100"]
    done = asyncio.run(cai("plan", path, "--prompts", "1000", *stated))
    assert done.status == 0, done.err
    # 2,000 replies: 100 tokens at 1,000/s and 32 at 100/s are 0.42 s each
    assert "2,000 calls × (100 ÷ 1,000 + 32 ÷ 100) ÷ 1 ÷ 3600 = 0.23 GPU-hours ÷ 2 = 0.12 h" in done.out
    assert "× $3 = $0.70" in done.out
    sizes = asyncio.run(cai("plan", path, "--capacity", *stated, "--json")).json["sizes"]
    assert [size["prompts"] for size in sizes] == [10_000, 1_000_000, 100_000_000]
    generate = sizes[0]["needs"][0]
    assert generate["gpu_hours"] == pytest.approx(20_000 * 0.42 / 3600) and generate["usd"] == pytest.approx(
        7.0
    )
    assert not config.root.exists()
    lost = asyncio.run(cai("plan", path, "--gpus", "2"))
    assert lost.status == 2 and "add --capacity" in lost.err
