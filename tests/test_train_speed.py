"""MFU by the shape of a model, held against what torch itself counts; no training and no GPU."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cai.train.findings import Speed, speed_told

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(base: Path) -> Any:
    """A Qwen3 of 64 hidden units, its head tied to the embeddings."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)


def counted(model: Any, tokens: int) -> float:
    """The FLOPs of a forward and a backward pass over one row, as torch counts them."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    ids = torch.arange(tokens).unsqueeze(0)
    with FlopCounterMode(display=False) as counter:
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
    model.zero_grad()
    return float(counter.get_total_flops())


def attention(model: Any, tokens: int) -> float:
    """The FLOPs of scores and values, forward and backward, by PaLM's formula: 12 · layers · heads · width a token."""
    config = model.config
    width = config.num_attention_heads * config.head_dim
    return float(12 * config.num_hidden_layers * width * tokens * tokens)


def test_flops_are_those_that_torch_counts(model: Any) -> None:
    """All but attention, which is left out on purpose and never makes the figure too high."""
    from cai.train.speed import flops_per_token

    ours, theirs = 64 * (flops_per_token(model) or 0), counted(model, 64)
    assert ours < theirs <= 1.02 * (ours + attention(model, 64))


def test_frozen_weights_need_no_gradient(model: Any) -> None:
    """An adapter's base is passed twice, not three times."""
    from peft import LoraConfig, get_peft_model

    from cai.train.speed import flops_per_token

    whole = flops_per_token(model) or 0
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    try:
        assert whole * 2 / 3 < (flops_per_token(adapted) or 0) < whole
    finally:
        adapted.unload()


def test_experts_are_not_guessed(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a mixture of experts a token meets only some."""
    from cai.train.speed import flops_per_token

    monkeypatch.setattr(model.config, "num_experts", 8, raising=False)
    assert flops_per_token(model) is None


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10G", 70),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA GeForce RTX 4090", 165),
        ("a device of next year", None),
    ],
)
def test_peaks_by_the_drivers_name(name: str, tflops: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The more special name wins; an unknown device has no MFU instead of a wrong one."""
    import torch

    from cai.train.speed import peak_flops

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda")) == (tflops and tflops * 1e12)
    assert peak_flops(torch.device("cpu")) is None


def test_speed_is_measured_between_records(
    tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes at a known peak: 1,000 tokens a second, in the records and over the whole training."""
    import json

    import torch

    from cai.train import metrics

    clock = iter([0.0, 2.0, 3.0, 5.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    monkeypatch.setattr(metrics, "peak_flops", lambda device: 1e9)
    monkeypatch.setattr(metrics, "flops_per_token", lambda model: 1e6)
    log = metrics.MetricsLog(tmp_path / "metrics.jsonl")
    args = SimpleNamespace(device=torch.device("cpu"), world_size=2)
    log.on_train_begin(args, SimpleNamespace(global_step=0), None, model=model)
    for step, tokens in ((1, 500), (2, 1500), (3, 3500)):
        state = SimpleNamespace(global_step=step, max_steps=3, is_world_process_zero=True)
        log.on_log(args, state, None, {"loss": 1.0, "num_tokens": tokens})
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(r.get("tokens_per_s"), r.get("mfu")) for r in records] == [
        (None, None),
        (1000, 0.5),
        (1000, 0.5),
    ]
    found = log.speed()
    assert (found.tokens_per_s, found.mfu) == (1000, 0.5) and found.peak_memory > 1e6


def test_speed_as_a_line() -> None:
    """What was not measured is left out."""
    assert speed_told(Speed(tokens_per_s=None, mfu=None, peak_memory=2 * 10**9)) == "peak memory 2 GB"
    assert (
        speed_told(Speed(tokens_per_s=12345.6, mfu=0.413, peak_memory=61 * 10**9))
        == "12,346 tokens/s, MFU 41.3%, peak memory 61 GB"
    )
