"""How far each policy has moved from the base, and how varied it still is: a process of its own, which needs torch.

    python -m cai.evaluate.divergence PLAN.json

Of REPLIES stored replies of a model: the KL divergence of the model's distribution of the next token from the base's,
exactly over the whole vocabulary, and the entropy of the model's, after each prefix of the reply, at temperature 1.
What is read is what was served: the prompt in the model's chat template, turn tokens in its text broken up, the reply,
its end token. It is one reply at a time, because padding is not neutral to every architecture. The base and one policy
are in memory together.
"""

from __future__ import annotations

import heapq
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cai.intervals import mean_difference
from cai.models.base import derive_seed
from cai.models.turns import tokens_of
from cai.process import end_with_parent
from cai.rows import Message, Reply, Row
from cai.store import read_rows, write_json

REPLIES = 200
CHUNK = 1 << 23  # logits worked on at a time: 32 MiB in float32, some copies of which are needed
LESS_VARIED = 0.5  # × the base's entropy: the policy has stopped choosing among words


class Origin(Row):
    """A model to look at: its `name`, its `weights` (a folder or a hub's name), and the file of its `replies`."""

    name: str
    weights: str
    replies: Path


class Plan(Row):
    """What to measure. `models`: the base first; `out`: the file for what is found."""

    models: tuple[Origin, ...]
    system_prompt: str | None
    seed: int
    out: Path


class Measured(Row):
    """One reply: its `tokens` with the end, and nats a token. `kl`: from the base, so None for the base."""

    id: str
    tokens: int
    entropy: float
    kl: float | None


class Mean(Row):
    """A mean over `n` replies, with Student's 95 % interval where there are two or more."""

    mean: float | None
    low: float | None
    high: float | None
    n: int


class Divergence(Row):
    """What is known of one model, in nats; all of it None where `why_not` says why nothing was measured.

    `entropy`: of the next token, a token. `kl_token`, `kl_reply`: the KL divergence from the base a token, and summed
    over a reply; None for the base. Each reply counts alike. `warnings`: what speaks for Goodhart's law.
    """

    entropy: Mean | None = None
    kl_token: Mean | None = None
    kl_reply: Mean | None = None
    warnings: tuple[str, ...] = ()
    why_not: str | None = None


def figures(rows: Sequence[Measured]) -> Divergence:
    """The figures of one model."""
    moved = [(row.kl, row.kl * row.tokens) for row in rows if row.kl is not None]
    return Divergence(
        entropy=_mean([row.entropy for row in rows]),
        kl_token=_mean([token for token, _ in moved]) if moved else None,
        kl_reply=_mean([reply for _, reply in moved]) if moved else None,
    )


def compared(found: dict[str, Divergence]) -> dict[str, Divergence]:
    """The same with warnings; the base, which has none, comes first."""
    base = next(iter(found.values())).entropy
    before = None if base is None else base.mean
    for name, one in found.items():
        after = None if one.entropy is None else one.entropy.mean
        if before and after is not None and after <= LESS_VARIED * before:
            warning = f"its words vary less: entropy is {after:.2f} nats a token (base {before:.2f})"
            found = found | {name: one.model_copy(update={"warnings": (warning,)})}
    return found


def _mean(values: Sequence[float]) -> Mean:
    mean = mean_difference(values, [0.0] * len(values))
    return Mean(mean=mean.difference, low=mean.low, high=mean.high, n=mean.n)


def main() -> int:
    """Measure what the plan says; ends with whoever holds the other end of standard input."""
    end_with_parent()
    plan = Plan.model_validate_json(Path(sys.argv[1]).read_bytes())
    found = measure(plan)
    write_json(plan.out, {name: [row.model_dump() for row in rows] for name, rows in found.items()})
    return 0


def measure(plan: Plan) -> dict[str, list[Measured]]:
    """The drawn replies of each model. Raises ValueError for a policy with another vocabulary than the base."""
    import torch

    first, *others = plan.models
    base, tokenizer = _load(first.weights)
    with torch.inference_mode():
        found = {first.name: list(_replies(plan, first, tokenizer, base, None))}
        for other in others:
            policy, tokenizer = _load(other.weights)
            found[other.name] = list(_replies(plan, other, tokenizer, policy, base))
            del policy
    return found


def _load(weights: str) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(weights, dtype="auto", use_safetensors=True).eval()
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), AutoTokenizer.from_pretrained(weights)


def _replies(plan: Plan, origin: Origin, tokenizer: Any, model: Any, base: Any) -> Iterator[Measured]:
    """Replies drawn by a hash of their id, so that they are to the same prompts for every model."""
    ranked = ((derive_seed(plan.seed, row.id, "divergence"), row) for row in read_rows(origin.replies, Reply))
    system = [Message(role="system", content=plan.system_prompt)] if plan.system_prompt else []
    for _, row in heapq.nsmallest(REPLIES, ranked, key=lambda one: (one[0], one[1].id)):
        asked, said = _tokens([*system, *row.prompt.messages], row.text, tokenizer)
        logits = _logits(model, asked, said)
        entropy, kl = _means(logits, None if base is None else _logits(base, asked, said))
        yield Measured(id=row.id, tokens=len(said), entropy=entropy, kl=kl)


def _tokens(turns: Sequence[Message], reply: str, tokenizer: Any) -> tuple[list[int], list[int]]:
    """The token ids of the prompt as it was served, and of the reply with its end.

    A reply in which `<|im_end|>` is to be read was written letter by letter: the token itself would have ended it.
    """
    marks = tokens_of(tokenizer, tokenizer.chat_template or "")
    messages = [{"role": turn.role, "content": marks.defused(turn.content)[0]} for turn in turns]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    asked = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    said = tokenizer(reply, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return asked, [*said, tokenizer.eos_token_id]


def _logits(model: Any, asked: Sequence[int], said: Sequence[int]) -> Any:
    """Logits of each token of the reply after what stands before it; of the prompt's own none are made."""
    import torch

    ids = torch.tensor([[*asked, *said]], device=model.device)
    return model(input_ids=ids, logits_to_keep=len(said) + 1, use_cache=False).logits[0, :-1]


def _means(logits: Any, base: Any) -> tuple[float, float | None]:
    """Mean entropy and mean KL divergence from the base over the positions, in nats; no base, no divergence."""
    if base is not None and base.shape != logits.shape:
        raise ValueError(
            f"the policy has {logits.shape[-1]} tokens and the base {base.shape[-1]}; they have no KL divergence"
        )
    positions = max(1, CHUNK // logits.shape[-1])
    entropy = kl = 0.0
    for start in range(0, len(logits), positions):
        log_p = logits[start : start + positions].float().log_softmax(-1)
        p = log_p.exp()
        entropy -= float((p * log_p).sum())
        if base is not None:
            log_q = base[start : start + positions].float().log_softmax(-1)
            kl += float((p * (log_p - log_q)).sum())
    return entropy / len(logits), None if base is None else kl / len(logits)


if __name__ == "__main__":
    sys.exit(main())
