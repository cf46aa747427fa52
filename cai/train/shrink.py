"""A tiny model of random weights with the architecture of a given one, for a dry run of trainings.

    python -m cai.train.shrink MODEL REVISION OUT

Everything that decides how a trainer treats a model stays: its class and kind of layers, tokenizer, chat template,
special tokens, grouped heads, dtype, tied embeddings. Only its sizes are small. Nothing but the config and the
tokenizer of MODEL (a folder or a hub name) is read, so it need not fit into memory, nor have its weights here.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from cai.errors import ConfigError

LAYERS, WIDTH, HEADS = 2, 64, 4
# Sizes by the names that configs of transformers have for them; those that a config lacks stay absent.
SIZES: dict[str, int] = {
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "moe_intermediate_size": WIDTH,
    "shared_expert_intermediate_size": WIDTH,
    "head_dim": WIDTH // HEADS,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
}
PER_LAYER = ("layer_types", "mlp_layer_types", "no_rope_layers")


def shrink(config: Any) -> Any:
    """A config of the same architecture with two narrow layers. Raises ConfigError for one without such sizes."""
    config = config.get_text_config()
    if not hasattr(config, "num_hidden_layers") or not hasattr(config, "hidden_size"):
        raise ConfigError(f"{config.model_type}: no language model that could be made small")
    grouped = getattr(config, "num_key_value_heads", None)
    heads = config.num_attention_heads
    for name, size in SIZES.items():
        if getattr(config, name, None) is not None and not _derived(config, name):
            setattr(config, name, size)
    if grouped is not None:
        config.num_key_value_heads = HEADS if grouped == heads else max(1, min(grouped, HEADS // 2))
    for name in PER_LAYER:
        if (kinds := getattr(config, name, None)) is not None:
            setattr(config, name, _some_of_each(kinds))
    return config


def _derived(config: Any, name: str) -> bool:
    """True for a size that follows from others: Falcon's width of a head, and that of DeepSeek's latent attention."""
    return isinstance(getattr(type(config), name, None), property) or (
        name == "head_dim" and hasattr(config, "qk_rope_head_dim")
    )


def _some_of_each(kinds: list[Any]) -> list[Any]:
    """As many as there are layers, of different kinds where the model has some."""
    return (list(dict.fromkeys(kinds)) * LAYERS)[:LAYERS]


def write_small(model: str, revision: str, out: Path) -> int:
    """Write the small model with the tokenizer of `model` to `out`; returns the number of its parameters.

    Raises ConfigError where there is no such model, no tokenizer, or its architecture cannot be made small.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    try:
        config = AutoConfig.from_pretrained(model, revision=revision)
        tokenizer = AutoTokenizer.from_pretrained(model, revision=revision)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{model}: cannot be read: {str(error).splitlines()[0]}") from error
    dtype = config.dtype
    torch.manual_seed(0)
    try:
        small = AutoModelForCausalLM.from_config(shrink(config))
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise ConfigError(
            f"{model}: {config.model_type} cannot be made small: {str(error).splitlines()[0]}; train on a GPU "
            "with max_steps: 2 instead"
        ) from error
    small.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    small.to(dtype or torch.float32).save_pretrained(out)
    tokenizer.save_pretrained(out)
    return sum(parameter.numel() for parameter in small.parameters())


if __name__ == "__main__":
    try:
        print(write_small(sys.argv[1], sys.argv[2], Path(sys.argv[3])))  # noqa: T201
    except ConfigError as error:
        print(error)  # noqa: T201
        sys.exit(error.exit_code)
