"""What a trained checkpoint of the embedded world writes on the held-out prompts, and which reply it prefers.

Replies are sampled by transformers in float32 (the tiny model's own measure), with the demo's sampling; a vLLM server
for each of so many checkpoints would take longer than they do. They are graded by the pipeline's exact grader; a
reply that was cut is unscored, as in a run.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.losses_cells import SETTINGS
from benchmarks.losses_world import DATA, Pair, held_out_pairs
from cai.evaluate.grade import METRIC_OF_TAG, Graded, grade_embedded
from cai.rows import Message, Prompt, Reply

BATCH = 50


def prompts(file: str) -> list[Prompt]:
    """The prompts of a data file of the embedded world."""
    rows = (json.loads(line) for line in (DATA / file).read_text(encoding="utf-8").splitlines())
    return [Prompt(**row, source=file) for row in rows]


def measure(folder: Path, file: str, seed: int) -> dict[str, Any]:
    """Counts by metric of the replies to the prompts of `file`, their mean length, and what could not be graded.

    `pairs`: log-probabilities of both replies of each held-out pair, better one first.
    """
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    asked = prompts(file)
    torch.manual_seed(seed)
    replies = list(_replies(model, tokenizer, asked))
    graded = list(grade_embedded(reply for reply in replies if reply.finish_reason == "stop"))
    held: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for row in graded:
        if isinstance(row, Graded):
            total[row.metric] += 1
            held[row.metric] += row.holds
    rates: dict[str, Any] = {one: [held[one], total[one]] for one in METRIC_OF_TAG.values()}
    return {
        **rates,
        "unscored": len(asked) - sum(total.values()),
        "words": sum(len(reply.text.split()) for reply in replies) / len(replies),
        "pairs": [
            list(one) for one in _log_probs(model, tokenizer, held_out_pairs(SETTINGS["held_out_pairs"]))
        ],
    }


def prefers_better(pairs: Sequence[Sequence[float]], reference: Sequence[Sequence[float]]) -> float:
    """Share of held-out pairs whose better reply has gained more on the reference: the implicit reward's accuracy."""
    gains = [
        (better - ref_better) - (worse - ref_worse)
        for (better, worse), (ref_better, ref_worse) in zip(pairs, reference, strict=True)
    ]
    return sum(gain > 0 for gain in gains) / len(gains)


def _replies(model: Any, tokenizer: Any, asked: Sequence[Prompt]) -> Iterator[Reply]:
    """One sampled reply a prompt, in their order."""
    sampling = SETTINGS["sampling"]
    for start in range(0, len(asked), BATCH):
        some = asked[start : start + BATCH]
        inputs = tokenizer(
            [_text(tokenizer, prompt.messages) for prompt in some],
            add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt",
        )  # fmt: skip
        with torch.inference_mode():
            out = model.generate(
                **inputs,
                do_sample=True,
                max_new_tokens=sampling["max_tokens"],
                temperature=sampling["temperature"],
                top_k=0,
                top_p=1.0,
            )
        new = out[:, inputs["input_ids"].shape[1] :]
        texts = tokenizer.batch_decode(new, skip_special_tokens=True)
        ended = (new == tokenizer.eos_token_id).any(dim=1).tolist()
        for prompt, text, stopped in zip(some, texts, ended, strict=True):
            yield Reply(
                id=f"{prompt.id}/r0", prompt=prompt, sample=0, text=text.strip(), model="", calls=(),
                finish_reason="stop" if stopped else "length",
            )  # fmt: skip


def _text(tokenizer: Any, messages: Sequence[Message]) -> str:
    raw = [{"role": message.role, "content": message.content} for message in messages]
    text: str = tokenizer.apply_chat_template(raw, tokenize=False, add_generation_prompt=True)
    return text


def _log_probs(model: Any, tokenizer: Any, pairs: Sequence[Pair]) -> Iterator[tuple[float, float]]:
    """Summed log-probability of the better and of the worse reply, end of turn included."""
    sides = [(messages, text) for messages, better, worse in pairs for text in (better, worse)]
    found: list[float] = []
    for start in range(0, len(sides), BATCH):
        found += _batch(model, tokenizer, sides[start : start + BATCH])
    return iter(list(zip(found[::2], found[1::2], strict=True)))


def _batch(model: Any, tokenizer: Any, sides: Sequence[tuple[tuple[Message, ...], str]]) -> list[float]:
    given = [
        tokenizer(_text(tokenizer, messages), add_special_tokens=False).input_ids for messages, _ in sides
    ]
    ends = [
        [*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id] for _, text in sides
    ]
    width = max(len(a) + len(b) for a, b in zip(given, ends, strict=True))
    ids = torch.full((len(sides), width), tokenizer.pad_token_id)
    counted = torch.zeros((len(sides), width), dtype=torch.bool)
    for row, (a, b) in enumerate(zip(given, ends, strict=True)):
        ids[row, : len(a) + len(b)] = torch.tensor(a + b)
        counted[row, len(a) : len(a) + len(b)] = True
    with torch.inference_mode():  # padded on the right, which a causal model does not see
        scores = model(input_ids=ids).logits[:, :-1].log_softmax(-1)
    taken = scores.gather(2, ids[:, 1:, None])[:, :, 0]
    return [float(one) for one in (taken * counted[:, 1:]).sum(dim=1)]
