"""The training loop of the embedded model: one stream of mixed samples, length buckets, two optimisers.

The loss is a weighted cross-entropy: 1 on the answer, `PROMPT_WEIGHT` on a sample of prompt tokens, and for
the judge's letter `JUDGE_WEIGHT` against the soft target. Sequences are padded on the right and causal, so
that no attention mask is needed. Matrices are trained by Muon, the embedding and the norms by AdamW.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import log_softmax

from cai.embedded.corpus import stream
from cai.embedded.tokenizer import chat_text

log = logging.getLogger(__name__)

BUCKETS = (32, 48, 64, 80, 96, 112, 128, 144, 160, 192, 256)
TOKENS_A_STEP = 6144
CHUNK = 6000  # samples made at a time
PROMPT_SHARE, PROMPT_WEIGHT, JUDGE_WEIGHT = 0.25, 0.15, 4.0
SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
}


@dataclass(frozen=True)
class Batch:
    """Token ids (rows × bucket) and the positions to learn from, with their soft targets.

    Position `where[i]` of the flattened rows predicts `first[i]` with probability `p[i]` and `second[i]` with
    the rest, with weight `weight[i]`.
    """

    ids: torch.Tensor
    where: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor
    p: torch.Tensor
    weight: torch.Tensor


@dataclass(frozen=True)
class Encoded:
    """One tokenised sample: ids, where the answer starts, the judge's target (None for other skills)."""

    ids: list[int]
    start: int
    p_a: float | None


def make_model(tokenizer: Any, seed: int) -> Any:
    """A fresh Qwen3 model in fp32 with the shape of the embedded default."""
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    vocabulary = math.ceil(len(tokenizer) / 64) * 64
    model = Qwen3ForCausalLM(Qwen3Config(vocab_size=vocabulary, bos_token_id=None, **ids, **SHAPE))
    model.set_attn_implementation("eager")  # for short rows its backward pass is the faster one on CPU
    model.generation_config = GenerationConfig(do_sample=True, temperature=1.0, top_k=0, top_p=1.0, **ids)
    return model


def encode(tokenizer: Any, rng: random.Random, count: int) -> list[Encoded]:
    """`count` fresh samples, tokenised."""
    samples = stream(rng, count)
    texts = [chat_text(sample) for sample in samples]
    prompts = tokenizer([text[0] for text in texts], add_special_tokens=False)["input_ids"]
    answers = tokenizer([text[1] for text in texts], add_special_tokens=False)["input_ids"]
    rows = zip(samples, prompts, answers, strict=True)
    return [Encoded(p + a, len(p), sample.p_a) for sample, p, a in rows]


def collate(rows: list[Encoded], bucket: int, letters: tuple[int, int], rng: random.Random) -> Batch:
    """One padded batch; prompt tokens are learnt from at a random quarter of the positions."""
    ids = torch.zeros(len(rows), bucket, dtype=torch.long)
    targets: list[tuple[int, int, int, float, float]] = []
    for number, row in enumerate(rows):
        ids[number, : len(row.ids)] = torch.tensor(row.ids)
        base = number * bucket
        for at in range(1, len(row.ids)):
            token, here = row.ids[at], base + at - 1
            if at == row.start and row.p_a is not None:
                targets.append((here, letters[0], letters[1], row.p_a, JUDGE_WEIGHT))
            elif at >= row.start:
                targets.append((here, token, token, 1.0, 1.0))
            elif rng.random() < PROMPT_SHARE:
                targets.append((here, token, token, 1.0, PROMPT_WEIGHT / PROMPT_SHARE))
    where, first, second, p, weight = zip(*targets, strict=True)
    return Batch(
        ids,
        torch.tensor(where),
        torch.tensor(first),
        torch.tensor(second),
        torch.tensor(p),
        torch.tensor(weight),
    )


def batches(tokenizer: Any, seed: int) -> Iterator[Batch]:
    """An endless seeded stream of batches, each of one bucket; what fills no batch waits for the next."""
    rng = random.Random(f"{seed}/train")
    letters = (tokenizer.convert_tokens_to_ids("A"), tokenizer.convert_tokens_to_ids("B"))
    waiting: dict[int, list[Encoded]] = {bucket: [] for bucket in BUCKETS}
    while True:
        ready: list[Batch] = []
        for row in encode(tokenizer, rng, CHUNK):
            bucket = next(size for size in BUCKETS if len(row.ids) <= size)
            waiting[bucket].append(row)
            if len(waiting[bucket]) == TOKENS_A_STEP // bucket:
                ready.append(collate(waiting[bucket], bucket, letters, rng))
                waiting[bucket] = []
        rng.shuffle(ready)
        yield from ready


def loss_of(model: Any, batch: Batch) -> torch.Tensor:
    """The weighted cross-entropy of a batch."""
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(input_ids=batch.ids, use_cache=False).last_hidden_state.flatten(0, 1)
        logits = model.lm_head(hidden[batch.where])
    logp = log_softmax(logits.float(), dim=-1)
    first = logp.gather(1, batch.first[:, None])[:, 0]
    second = logp.gather(1, batch.second[:, None])[:, 0]
    return -(batch.weight * (batch.p * first + (1 - batch.p) * second)).sum() / batch.weight.sum()


def optimisers(model: Any, rate: float, muon_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the rest."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=muon_rate, momentum=0.95, weight_decay=0.05),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


def schedule(step: int, steps: int) -> float:
    """The factor on the rates: 40 steps of warm-up, then a cosine down to 5 %."""
    if step < 40:
        return (step + 1) / 40
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - 40) / max(1, steps - 40)))


def train(model: Any, tokenizer: Any, steps: int, seed: int) -> float:
    """Trains in place; returns the wall seconds. Logs loss, step and time left every 20 steps."""
    pair = optimisers(model, rate=3e-3, muon_rate=0.02)
    bases = [optimiser.param_groups[0]["lr"] for optimiser in pair]
    source, started, mean = batches(tokenizer, seed), time.monotonic(), 0.0
    model.train()
    for step in range(steps):
        for optimiser, base in zip(pair, bases, strict=True):
            optimiser.param_groups[0]["lr"] = base * schedule(step, steps)
        loss = loss_of(model, next(source))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in pair:
            optimiser.step()
            optimiser.zero_grad()
        mean = loss.item() if step == 0 else 0.95 * mean + 0.05 * loss.item()
        if (step + 1) % 20 == 0:
            spent = time.monotonic() - started
            left = spent / (step + 1) * (steps - step - 1)
            log.info(
                "step %d/%d loss %.3f %.2f s/step %.0f s left",
                step + 1,
                steps,
                mean,
                spent / (step + 1),
                left,
            )
    model.eval()
    return time.monotonic() - started
