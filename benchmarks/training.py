"""Training speed on a Qwen3 of real size with random weights: TRL's own defaults against ours, in one run.

    python -m benchmarks.training --shape 0.6b --kinds sft dpo            # an H100 or H200 wanted
    python -m benchmarks.training --shape 8b --kinds sft --lora 64
    python -m benchmarks.training --shape tiny --steps 2                  # does it run? on a CPU

What a step costs does not depend on what the weights know, so none are downloaded. Rows are made up, of the lengths
that chats have: half of `--length` to all of it. Tokens a second count no padding; MFU as in `cai.train.speed`. Both
ways go through `cai.train.launch`; `--set KEY=VALUE` changes ours, to try an option before it becomes a default.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import orjson
import yaml

from benchmarks.tables import OUT, Column, print_table, save
from cai.config import DpoConfig, Kind, TrainingConfig
from cai.errors import CaiError
from cai.train.launch import launch
from cai.train.plan import has_gpu

TOKENIZER = Path(__file__).parent.parent / "cai" / "embedded" / "weights"
WORDS = ("please", "tell", "me", "how", "bread", "is", "made", "kindly", "open", "the", "door", "for", "cats")
SHAPES: dict[str, dict[str, Any]] = {  # Qwen3's, as published
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 4096, "tie_word_embeddings": True},
    "0.6b": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
             "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "tie_word_embeddings": True},
    "4b": {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32,
           "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "tie_word_embeddings": True},
    "8b": {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32,
           "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "tie_word_embeddings": False},
}  # fmt: skip
Way = dict[str, Any]
TRL: dict[Kind, Way] = {"sft": {}, "dpo": {"precompute_ref_log_probs": False}}
OURS: dict[Kind, Way] = {
    # rows fill max_length without padding, and memory that is there is not saved by computing everything twice
    "sft": {"packing": True, "gradient_checkpointing": False, "per_device_train_batch_size": 16},
    "dpo": {"precompute_ref_log_probs": True, "gradient_checkpointing": False, "per_device_train_batch_size": 16},
}  # fmt: skip
COLUMNS = (
    Column("kind", "training"),
    Column("way", "options"),
    Column("tokens_per_s", "tokens/s", "{:,.0f}"),
    Column("ratio", "ratio", "{:.2f}"),
    Column("mfu", "MFU", "{:.1%}"),
    Column("peak_memory", "peak GB", "{:.1f}"),
    Column("problem", "failed"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure each training both ways; 1 where one of them failed."""
    options = _options(arguments)
    folder = OUT / "training" / options.shape
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _write_model(folder / "model", SHAPES[options.shape], options.length)
    rows: list[dict[str, Any]] = []
    for kind in options.kinds:
        data = folder / f"{kind}.jsonl"
        data.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in _rows(kind, options)))
        first = None
        for way in options.ways:
            row = {"kind": kind, "way": way} | _measure(kind, way, data, folder, options)
            first = first or row.get("tokens_per_s")
            row["ratio"] = row["tokens_per_s"] / first if first and row.get("tokens_per_s") else None
            rows.append(row)
    save("training", {"shape": options.shape, "length": options.length, "steps": options.steps, "rows": rows})
    if options.json:
        sys.stdout.write(orjson.dumps(rows).decode() + "\n")
    else:
        shown = [row | {"peak_memory": row.get("peak_memory", 0) / 1e9} for row in rows]
        print_table(f"Qwen3 {options.shape}, rows of up to {options.length} tokens", COLUMNS, shown)
    return int(any(row.get("problem") for row in rows))


def _measure(kind: Kind, way: str, data: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One training; its speed, or why it failed."""
    args = TRL[kind] if way == "trl" else OURS[kind] | options.changes
    args = args | {"max_steps": options.steps, "save_strategy": "no", "max_length": options.length}
    section = (DpoConfig if kind == "dpo" else TrainingConfig)(
        args=args, lora={"r": options.lora} if options.lora else None
    )
    out = folder / f"{kind}-{way}"
    try:
        report = launch(
            kind, model=str(folder / "model"), data=data, out=out, config=section, seed=0,
            log=folder / f"{out.name}.log",
        )  # fmt: skip
    except CaiError as error:
        return {"problem": str(error)}
    finally:
        shutil.rmtree(out, ignore_errors=True)
    assert report.speed is not None
    return report.speed.model_dump()


def _write_model(folder: Path, shape: dict[str, Any], length: int) -> None:
    """Random weights in bf16, with the embedded model's tokenizer: its ids are the first ones of the vocabulary."""
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    special = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = Qwen3Config(**shape, **special, max_position_embeddings=max(length, 4096), dtype="bfloat16")
    torch.manual_seed(0)
    with torch.device("cuda" if has_gpu() else "cpu"):
        model = Qwen3ForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _rows(kind: Kind, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Enough rows for all steps of the larger batch; the prompt is a fifth of each."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    tokens_a_word = len(tokenizer(" ".join(WORDS))["input_ids"]) / len(WORDS)
    generator = random.Random(0)
    for _ in range(options.rows or 16 * options.steps * 2):
        words = int(generator.uniform(0.5, 0.95) * (options.length - 32) / tokens_a_word)
        asked = [_turn("user", generator, max(1, words // 5))]
        replies = [[_turn("assistant", generator, words - words // 5)] for _ in range(2)]
        names = ("completion",) if kind == "sft" else ("chosen", "rejected")
        yield {"prompt": asked} | dict(zip(names, replies, strict=False))


def _turn(role: str, generator: random.Random, words: int) -> dict[str, str]:
    return {"role": role, "content": " ".join(generator.choices(WORDS, k=words))}


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="0.6b")
    parser.add_argument(
        "--kinds", nargs="+", choices=[kind for kind in get_args(Kind) if kind in OURS], default=[*OURS]
    )
    parser.add_argument("--ways", nargs="+", choices=("trl", "ours"), default=["trl", "ours"])
    parser.add_argument("--length", type=int, default=1024, help="max_length, in tokens")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rows", type=int, help="made up; default: enough for all steps")
    parser.add_argument("--lora", type=int, help="rank of an adapter instead of full training")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="an option of ours")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    options.changes = {
        key: yaml.safe_load(value) for key, _, value in (one.partition("=") for one in options.set)
    }
    return options


if __name__ == "__main__":
    sys.exit(main())
