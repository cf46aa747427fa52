"""`cai train --dry-run`: every shipped training section for real, on a tiny model of the architecture it is for."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from cai.conduct import dry_run as module
from cai.conduct.dry_run import dry_run, shortened
from cai.config import DpoConfig, TrainingConfig
from cai.config_file import load_config
from cai.errors import ConfigError
from tests.tiny_model import build_model

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "flows" / "configs" / "one-gpu.yaml"


@pytest.fixture(scope="module")
def mistral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a hub has of Mistral 7B without its weights: config, tokenizer and template."""
    from transformers import MistralConfig

    folder = tmp_path_factory.mktemp("mistral-7b")
    build_model(folder)
    (folder / "model.safetensors").unlink()
    MistralConfig(
        vocab_size=403, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, dtype="bfloat16",
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.mark.slow
def test_the_gpu_config_trains_two_steps_here(mistral: Path, tmp_path: Path) -> None:
    """SFT and DPO with LoRA by one-gpu.yaml, on the architecture that it names; nothing is left behind."""
    policy = f"models.policy.model={mistral}"
    command = [sys.executable, "-m", "cai", "train", str(CONFIG), "--dry-run", "--set", policy]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    first, sft, dpo, last = done.stdout.splitlines()
    assert first.endswith(f"the architecture of {mistral}") and last.startswith("not looked at")
    assert sft.startswith("sft     ok, loss 5.9") and sft.endswith("no GPU here: bf16")
    assert dpo.startswith("dpo     ok, loss 0.6931 → 0.6")
    assert not list(tmp_path.glob("cai-dry-run-*"))


@pytest.mark.slow
def test_layers_that_the_model_lacks_are_found(
    mistral: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adapter for layers of another architecture passes every check of options; the log stays, and is named."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    changes = ["sft=null", "recipe=direct", "evaluate=null", "dpo.lora.target_modules=[c_attn]"]
    config = load_config(str(CONFIG), [f"models.policy.model={mistral}", *changes])
    said: list[str] = []
    (found,) = dry_run(config, said.append)
    assert "c_attn" in (found.problem or "") and found.losses == ()
    (log,) = tmp_path.glob("cai-dry-run-*/dpo.log")
    assert str(log) in (found.problem or "") and log.stat().st_size > 0


def test_no_training_is_refused() -> None:
    """There is nothing to try."""
    config = load_config(str(ROOT / "flows" / "configs" / "hosted.yaml"), [])
    with pytest.raises(ConfigError, match="no training section"):
        next(dry_run(config, print))


@pytest.mark.slow
def test_a_policy_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, by its name, and no folder stays."""
    monkeypatch.setattr(module, "check_args", lambda sections: None)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "here"))
    (tmp_path / "here").mkdir()
    config = load_config(str(CONFIG), [f"models.policy.model={tmp_path / 'none'}"])
    with pytest.raises(ConfigError, match=r"none: cannot be read") as caught:
        next(dry_run(config, print))
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "here").iterdir())


SECTION = TrainingConfig(
    args={
        "bf16": True,
        "max_steps": 900,
        "learning_rate": 1e-4,
        "optim": "paged_adamw_8bit",
        "model_init_kwargs": {"attn_implementation": "flash_attention_2", "dtype": "bfloat16"},
    },
    accelerate={"config_file": "8gpu-fsdp2", "num_cpu_threads_per_process": 1},
)


@pytest.mark.parametrize("gpu", [True, False])
def test_what_only_a_gpu_can_do(gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU it is left out, and named; with one the section is tried as it is."""
    monkeypatch.setattr(module, "has_gpu", lambda: gpu)
    found, left_out = shortened(SECTION)
    short: dict[str, Any] = {"max_steps": 2, "save_strategy": "no", "logging_steps": 1}
    if gpu:
        assert (found, left_out) == (SECTION.model_copy(update={"args": SECTION.args | short}), ())
        return
    assert found.args == short | {"learning_rate": 1e-4, "model_init_kwargs": {"dtype": "bfloat16"}}
    assert found.accelerate == {"num_cpu_threads_per_process": 1}
    assert left_out == ("bf16", "attn_implementation", "optim paged_adamw_8bit", "accelerate.config_file")


def test_an_error_yet_to_be_measured_is_a_number() -> None:
    """The judge has not been asked anything yet."""
    found, _ = shortened(DpoConfig(args={"loss_type": "robust", "label_smoothing": "measured"}))
    assert found.args["label_smoothing"] == 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture", ["qwen3", "llama", "mistral", "gemma3_text", "qwen3_moe", "gpt2", "deepseek_v3", "falcon"]
)
def test_architectures_are_made_small(architecture: str) -> None:
    """The same class and kinds of layers, a few hundred thousand parameters beside the embeddings, and it computes."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from cai.train.shrink import shrink

    whole = AutoConfig.for_model(architecture)
    kinds, grouped = set(getattr(whole, "layer_types", None) or ()), getattr(whole, "num_key_value_heads", 0)
    wide = whole.num_attention_heads
    small = shrink(whole)
    model = AutoModelForCausalLM.from_config(small)
    outside = {id(p) for p in (model.get_input_embeddings().weight, model.get_output_embeddings().weight)}
    assert sum(p.numel() for p in model.parameters() if id(p) not in outside) < 5e6
    assert set(getattr(small, "layer_types", None) or ()) == kinds
    assert not grouped or (grouped == wide) == (small.num_key_value_heads == small.num_attention_heads)
    ids = torch.arange(4, 12).unsqueeze(0)
    assert model(input_ids=ids, labels=ids).loss > 1
