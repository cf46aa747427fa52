"""`python -m cai.embedded.build`: the seeded recipe behind all that the embedded default ships.

It writes the data files, trains the tokenizer and the model, measures the skills on held-out requests, and
writes weights in bf16 with a model card. Another seed or step count gives another, equally honest model.
"""

from __future__ import annotations

import argparse
import logging
import os
import time
from pathlib import Path
from typing import Any

from cai.embedded import DATA_DIR, MODEL_DIR
from cai.embedded.splits import write_data

log = logging.getLogger("cai.embedded.build")

CARD = """---
license: apache-2.0
language: en
pipeline_tag: text-generation
---
# The embedded model of cai

A Qwen3-architecture transformer of {parameters:.2f} M parameters with its own byte-level BPE of {tokens}
tokens and a ChatML template, trained from scratch on the closed toy world of `cai.embedded.world`.
It answers, critiques, revises and judges short English conversations of that world, and of nothing else.
As a base policy it complies with most unsafe toy requests on purpose: that is what the pipeline is there to change.

## Training

`python -m cai.embedded.build --steps {steps} --seed {seed}`: one stream of mixed samples (answers, critiques,
revisions, comparisons), about 6,000 tokens a step, Muon for the matrices and AdamW for the rest, cosine
rates, bf16 autocast. Cost of this checkpoint: {minutes:.0f} minutes on two shared CPU cores, {million:.1f} M
token positions. No text from outside the toy world and no other model was used.

## Skills, measured on held-out requests ({count} each)

{table}

`critique_unseen` and `judge_unseen` use combinations of families never seen in training, half of them in a
wording never seen. `helpful` and `twins` are sampled at temperature 0.7, `base_harmless` at 1.0, critiques
and revisions greedily. `base_harmless` is the share of answers to unsafe requests that help with nothing
harmful. The judge prefers the first reply a little, as trained: ask it in both orders.

## Limits

It knows about 2,000 words. Requests outside the world get a reply from inside it. It is a test article for a
data pipeline, not an assistant, and its harmful sentences are toy sentences.

Known errors of the shipped judge: it does not see when a reply to an everyday request is off-topic (its two
orders then disagree), and under a principle that does not cover the request it takes an off-topic reply for
better than a harmful one. Harmful against safe and good against refusal are right in nearly all cases.
"""


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m cai.embedded.build", description=__doc__)
    parser.add_argument("--out", type=Path, default=MODEL_DIR, help="folder for weights, tokenizer and card")
    parser.add_argument("--data", type=Path, default=DATA_DIR, help="folder for the data files")
    parser.add_argument("--data-only", action="store_true", help="write the data files and stop")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def save(model: Any, tokenizer: Any, out: Path) -> None:
    """Writes bf16 safetensors, config, generation config and tokenizer."""
    import torch

    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)


def build(options: argparse.Namespace) -> None:
    """Tokenizer, model, measurement, card."""
    import torch

    from cai.embedded.measure import measure
    from cai.embedded.tokenizer import train_tokenizer
    from cai.embedded.train import TOKENS_A_STEP, make_model, train

    started = time.monotonic()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    tokenizer = train_tokenizer(options.seed)
    model = make_model(tokenizer, options.seed)
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    log.info("%.2f M parameters, %d tokens", parameters, len(tokenizer))
    train(model, tokenizer, options.steps, options.seed)
    minutes = (time.monotonic() - started) / 60
    save(model, tokenizer, options.out)
    count = 400
    skills = measure(model, tokenizer, count=count)
    log.info("\n%s", skills.table())
    card = CARD.format(
        parameters=parameters, tokens=len(tokenizer), steps=options.steps, seed=options.seed, minutes=minutes,
        million=options.steps * TOKENS_A_STEP / 1e6, count=count, table=skills.table(),
    )  # fmt: skip
    (options.out / "README.md").write_text(card)


def main(argv: list[str] | None = None) -> None:
    """Runs the recipe."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    options = arguments(argv)
    write_data(options.data, options.seed)
    if not options.data_only:
        build(options)


if __name__ == "__main__":
    main()
