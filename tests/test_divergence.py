"""KL divergence and entropy from real weights, against their definition in float64, and what a run says of them."""

from __future__ import annotations

import asyncio
import io
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cai.conduct.divergence import divergence
from cai.config import RunConfig
from cai.embedded import MODEL_DIR
from cai.errors import ConfigError
from cai.evaluate import divergence as child
from cai.evaluate.divergence import Divergence, Mean, Measured, Origin, Plan, compared, figures, measure
from cai.evaluate.summary import write_evaluation
from cai.publish import grade_by_rules, publish_rows
from cai.report.page import write_report
from cai.report.status import run_status
from cai.report.summary import print_status
from cai.rows import Message, Prompt, Reply
from cai.runfolder.hold import start_run
from cai.store import write_rows
from tests.test_train_run import config_of

TURNS = (Message(role="user", content="please tell me how to bake bread"),)
TEXTS = ["open a door", "cats", "please bake bread for cats kindly", "how"]


def replies(texts: list[str]) -> list[Reply]:
    return [
        Reply(
            id=f"p{n}/r0", sample=0, text=text, finish_reason="stop", model="m", calls=("c",),
            prompt=Prompt(id=f"p{n}", source="s", messages=TURNS, tags=("helpful",)),
        )
        for n, text in enumerate(texts)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def policy(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base with other weights: somewhat of a training."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("policy")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    torch.manual_seed(1)
    with torch.no_grad():
        for weights in model.parameters():
            weights += 0.05 * torch.randn_like(weights)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def by_definition(text: str, policy: Path, base: Path) -> tuple[int, float, float]:
    """Tokens, entropy and divergence of a reply, a term for each token of the vocabulary, in float64."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    whole = [*(turn.model_dump() for turn in TURNS), {"role": "assistant", "content": text}]
    told = tokenizer.apply_chat_template(whole[:-1], add_generation_prompt=True, tokenize=False)
    ids = tokenizer(tokenizer.apply_chat_template(whole, tokenize=False))["input_ids"]
    start, end = len(tokenizer(told)["input_ids"]), len(ids) - 1  # the template ends with a line's end
    logs = []
    for path in (policy, base):
        model = AutoModelForCausalLM.from_pretrained(path, dtype="auto").eval()
        with torch.no_grad():
            logs.append(model(torch.tensor([ids])).logits[0, start - 1 : end - 1].double().log_softmax(-1))
    p, q = logs
    terms = (p.exp() * (p - q)).sum(-1), -(p.exp() * p).sum(-1)
    return end - start, float(terms[1].mean()), float(terms[0].mean())


@pytest.mark.slow
def test_the_figures_are_their_definition(
    base: Path, policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every reply, whichever way it is cut into chunks; a model is at no distance from itself."""
    monkeypatch.setattr(child, "CHUNK", 900)  # two positions of a vocabulary of about 400
    write_rows(tmp_path / "rows.jsonl", replies(TEXTS))
    names = {"base": base, "same": base, "policy": policy}
    models = tuple(Origin(name=n, weights=str(p), replies=tmp_path / "rows.jsonl") for n, p in names.items())
    found = measure(Plan(models=models, system_prompt=None, seed=0, out=tmp_path / "out.json"))
    assert [row.kl for row in found["base"]] == [None] * 4 and [row.kl for row in found["same"]] == [0.0] * 4
    for row in found["policy"]:
        tokens, entropy, kl = by_definition(TEXTS[int(row.id[1])], policy, base)
        assert row.tokens == tokens and row.entropy == pytest.approx(entropy, rel=1e-4)
        assert kl > 0.001 and row.kl == pytest.approx(kl, rel=1e-3)
    assert [row.id for row in found["policy"]] == [row.id for row in found["base"]]


@pytest.mark.slow
def test_turn_tokens_in_a_text_are_words(tmp_path: Path) -> None:
    """A prompt has the turns that were served, and a reply the letters that were written and one end."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    text = "No.<|im_end|>\n<|im_start|>system\nYes."
    asked, said = child._tokens([Message(role="user", content=text)], text, tokenizer)
    assert (asked.count(start), asked.count(end)) == (2, 1)
    assert (said.count(start), said.count(end)) == (0, 1) and said[-1] == end
    assert tokenizer.decode(said[:-1]) == text


def test_means_and_warnings() -> None:
    """Each reply counts alike; Student's interval; less than half of the base's entropy is told."""
    rows = [Measured(id=str(n), tokens=n, entropy=1.0, kl=0.1 * n) for n in (1, 2, 3)]
    found = figures(rows)
    half = 4.302652729749464 * 0.1 / math.sqrt(3)
    assert found.kl_token is not None and found.kl_token.low == pytest.approx(0.2 - half)
    assert found.kl_reply is not None and found.kl_reply.mean == pytest.approx((0.1 + 0.4 + 0.9) / 3)
    assert figures([row.model_copy(update={"kl": None}) for row in rows]).kl_token is None
    assert figures([]).entropy == Mean(mean=None, low=None, high=None, n=0)
    base = figures([Measured(id="0", tokens=1, entropy=2.0, kl=None)])
    warned = compared({"base": base, "dpo": found, "sft": base})
    assert warned["dpo"].warnings == ("its words vary less: entropy is 1.00 nats a token (base 2.00)",)
    assert (
        warned["sft"] == base
        and not compared({"base": Divergence(why_not="w"), "dpo": found})["dpo"].warnings
    )


def answered(folder: Path) -> RunConfig:
    """A run of the embedded world whose two models have replied."""
    held = {"sources": [{"path": str(folder / "prompts.jsonl")}], "grader": "embedded", "divergence": True}
    config = config_of(folder, evaluate=held, sft={})
    with start_run(config):
        pass
    for name in ("base", "sft"):
        publish_rows(config.root, f"evaluate-{name}", 0, name, replies(TEXTS))
        grade_by_rules(config, name)
    return config


def shown(config: RunConfig, moved: dict[str, Divergence]) -> tuple[str, str, Any]:
    """Terminal, page and `evaluation.json` of a run with these figures."""
    write_evaluation(config, ["base", "sft"], moved)
    out = io.StringIO()
    print_status(run_status(config.root), Console(file=out, width=80))
    return (
        out.getvalue(),
        write_report(config).read_text(),
        json.loads((config.root / "evaluation.json").read_text()),
    )


def broken(folder: Path) -> Path:
    """An interpreter in which every program ends for want of memory."""
    path = folder / "python"
    path.write_text("#!/bin/sh\necho 'torch.OutOfMemoryError: CUDA out of memory' >&2\nexit 1\n")
    path.chmod(0o755)
    return path


@pytest.mark.slow
def test_a_run_measures_once_and_shows_it(
    base: Path, policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own; the same weights and replies are not measured again; other replies are.

    Why that fails stands in the place of the figures, and nothing is kept of it.
    """
    config = answered(tmp_path)
    weights = {"base": str(base), "sft": str(policy)}
    found = asyncio.run(divergence(config, weights))
    assert found["base"].kl_token is None and found["sft"].why_not is None
    token = found["sft"].kl_token
    assert token is not None and token.n == 4 and token.mean is not None and token.mean > 0.001
    terminal, page, stored = shown(config, found)
    line = f"sft: KL divergence from the base {token.mean:.3g} ["
    assert f"moved    {line}" in terminal and line in page
    assert stored["sft"]["divergence"] == found["sft"].model_dump(mode="json")
    assert asyncio.run(divergence(config, dict.fromkeys(weights, "/nowhere"))) == found
    publish_rows(config.root, "evaluate-sft", 0, "other", replies(TEXTS[:2]))
    monkeypatch.setattr(sys, "executable", str(broken(tmp_path)))
    assert asyncio.run(divergence(config, weights)) == dict.fromkeys(
        weights,
        Divergence(
            why_not=f"torch.OutOfMemoryError: CUDA out of memory (log: {config.root}/logs/divergence.log)"
        ),
    )


def test_what_was_not_measured_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torch there is a line with what to install, once for all models; and no figure."""
    config = answered(tmp_path)
    monkeypatch.setattr("cai.conduct.divergence.NEEDED", ("torch", "no_such_package"))
    found = asyncio.run(divergence(config, {"base": "b", "sft": "s"}))
    terminal, page, stored = shown(config, found)
    line = "base, sft: not measured: needs no_such_package: pip install &#39;cai[train]&#39;"
    assert (
        line in page
        and "moved    base, sft: not measured: needs no_such_package: pip install 'cai[train]'" in terminal
    )
    assert stored["base"]["divergence"]["entropy"] is None


def test_hosted_policies_have_no_weights_to_load(tmp_path: Path) -> None:
    """They are refused by name when the config is read."""
    held = {"sources": [{"path": "held.jsonl"}], "grader": "judge", "divergence": True}
    hosted = {"models": {"m": {"backend": "anthropic", "model": "claude-x"}}}
    with pytest.raises(ConfigError, match=r"evaluate\.divergence: loads the weights of the policy"):
        config_of(tmp_path, evaluate=held, **hosted)


def test_the_documented_numbers_are_those_of_the_code() -> None:
    """Replies looked at, and the warning's bound."""
    text = (Path(__file__).parent.parent / "docs" / "evaluation.md").read_text()
    for said in (
        f"up to {child.REPLIES} stored replies",
        f"entropy is at most {child.LESS_VARIED} times the base's",
    ):
        assert said in text, said
