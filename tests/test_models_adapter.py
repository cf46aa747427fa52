"""A LoRA adapter served by name beside its base: both answer, each as itself, and the adapter as its merged weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cai.config import ManagedConfig, RunConfig
from cai.embedded import MODEL_DIR
from cai.errors import ConfigError
from cai.models.engine import adapter_rank, engine_flags
from cai.models.weights import weights_digest
from cai.serving import opened, serving
from tests.flows.small import small_config
from tests.test_models_managed import FAST_ON_CPU, ask

pytestmark = pytest.mark.anyio
TOKENS = 24
QUESTIONS = (
    "Tell me about the museum.",
    "How do I bake bread?",
    "What is a boat?",
    "Help me with my garden.",
)


def tuned(folder: Path) -> tuple[Path, Path]:
    """An adapter of rank 4 that changes what the embedded model says, and the weights that it makes when merged."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "up_proj", "down_proj"])
    model = get_peft_model(base, lora)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=1.0)
    model.to(torch.bfloat16).save_pretrained(str(folder / "adapter"))
    merged = model.to(torch.float32).merge_and_unload()
    merged.to(torch.bfloat16).save_pretrained(str(folder / "merged"))
    AutoTokenizer.from_pretrained(MODEL_DIR).save_pretrained(str(folder / "merged"))
    return folder / "adapter", folder / "merged"


def greedy(folder: Path) -> list[str]:
    """What transformers has the weights in a folder answer to the questions."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    said = []
    for text in QUESTIONS:
        chat = [{"role": "user", "content": text}]
        shown = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        asked = tokenizer(shown, add_special_tokens=False, return_tensors="pt")
        with torch.inference_mode():
            out = model.generate(**asked, max_new_tokens=TOKENS, do_sample=False)
        said.append(tokenizer.decode(out[0, asked["input_ids"].shape[1] :], skip_special_tokens=True))
    return said


def test_flags_of_an_adapter(tmp_path: Path) -> None:
    """The rank is the adapter's own, rounded up to one that vLLM knows; a folder without one is refused."""
    config = '{"r": 12, "rank_pattern": {"q_proj": 20}}'
    (tmp_path / "adapter_config.json").write_text(config)
    flags = engine_flags(str(MODEL_DIR), ManagedConfig(), [str(tmp_path)])
    assert flags[flags.index("--max-lora-rank") + 1] == "32"
    assert flags[-2:] == ["--lora-modules", f'{{"name":"{tmp_path}","path":"{tmp_path}"}}']
    assert "--enable-lora" in flags and "--enable-lora" not in engine_flags(str(MODEL_DIR), ManagedConfig())
    with pytest.raises(ConfigError, match="no LoRA adapter there"):
        adapter_rank(str(tmp_path / "nothing"))
    (tmp_path / "adapter_config.json").write_text("[]")
    with pytest.raises(ConfigError, match="not the config of a LoRA adapter"):
        adapter_rank(str(tmp_path))


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    """Training from a base without its adapter, an adapter on a server of others, an engine of another process."""

    def config(model: dict[str, Any], **changes: Any) -> RunConfig:
        toy = {"backend": "vllm", "model": "toy"}
        models = {"toy": {**toy, **model}, "x": {**toy, "managed": {}, "adapter": "other"}}
        return RunConfig.model_validate(small_config(tmp_path, "", models=models, **changes))

    for model, changes, words in (
        (
            {"managed": {}, "adapter": "low"},
            {"sft": {}},
            r"models\.toy\.adapter: training would start from the base",
        ),
        ({"endpoint": "http://a", "adapter": "low"}, {}, "'adapter' is served by a managed engine"),
        ({"managed": {"in_process": True}}, {"ray": {}}, "in_process: Ray's workers are other processes"),
    ):
        with pytest.raises(ValueError, match=words):
            config(model, **changes)
    assert config({"managed": {}}, judge={"jury": ["toy", "x"]}).judge.judges == ("toy", "x")


@pytest.mark.slow
async def test_base_and_adapter_on_one_engine(tmp_path: Path) -> None:
    """Greedy answers of the adapter are those of the merged weights on most questions, and not the base's."""
    adapter, merged = tuned(tmp_path)
    section = {"args": {**FAST_ON_CPU, "dtype": "float32"}}
    model = {"backend": "vllm", "model": str(MODEL_DIR), "managed": section}
    models = {"base": model, "tuned": {**model, "adapter": str(adapter)}}
    roles = {role: {"model": "base"} for role in ("policy", "critic", "judge")}
    config = RunConfig.model_validate(small_config(tmp_path, "", models=models, **roles))
    said: dict[str, list[str]] = {}
    async with serving(config, ["base", "tuned"]) as endpoints:
        for name in ("base", "tuned"):
            async with opened(config, name, endpoints) as chat:
                requests = [ask(text, temperature=0.0, max_tokens=TOKENS) for text in QUESTIONS]
                said[name] = [(await chat.complete(request)).text for request in requests]
                if name == "tuned":
                    assert chat.identity.startswith(f"vllm:{weights_digest(str(MODEL_DIR))}+")
    merged_says = greedy(merged)
    assert sum(one == two for one, two in zip(said["tuned"], merged_says, strict=True)) >= 3
    assert sum(one == two for one, two in zip(said["tuned"], said["base"], strict=True)) <= 1
