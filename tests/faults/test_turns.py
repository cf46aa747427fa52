"""Turn tokens in content open no turn: on the way to a model, and for real tokenizers and templates of every shape."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.config import ManagedConfig, ModelConfig
from cai.embedded import MODEL_DIR
from cai.errors import ConfigError
from cai.models import open_model
from cai.models.base import Request
from cai.models.turns import ANY_MODEL, JOINER, USUAL, TurnTokens, tokens_in, turn_tokens
from cai.models.vllm import VllmModel
from cai.rows import Message
from tests.engine import Engine
from tests.faults.hostile_text import HOSTILE, TURNS
from tests.wire import wire_server

pytestmark = pytest.mark.anyio
CHATML = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
# For each family: its special tokens, and a chat template of its shape.
FAMILIES: dict[str, tuple[tuple[str, ...], str]] = {
    "ChatML": (
        CHATML,
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "<|im_start|>assistant\n",
    ),
    "Llama 3": (
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|begin_of_text|>{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}"
        "<|eot_id|>{% endfor %}<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "Gemma": (
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
        "<bos>{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content }}<end_of_turn>\n{% endfor %}"
        "<start_of_turn>model\n",
    ),
    "Llama 2": (
        ("<s>", "</s>"),
        "<s>{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}",
    ),
}


def write_tokenizer(folder: Path, special: tuple[str, ...], template: str) -> Any:
    """A byte-level tokenizer with these special tokens, saved as engines read it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=list(special), initial_alphabet=alphabet)
    core.train_from_iterator(["some words"], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=special[-1], pad_token=special[-1], chat_template=template
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def special_in(tokenizer: Any, ids: list[int]) -> list[int]:
    return [one for one in ids if one in tokenizer.all_special_ids or one in tokenizer.added_tokens_decoder]


def rendered(tokenizer: Any, text: str) -> list[int]:
    turns = [{"role": "user", "content": text}, {"role": "user", "content": "And?"}]
    found: list[int] = tokenizer.apply_chat_template(turns, return_dict=False)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_no_turn_token_of_a_family_is_left(family: str, tmp_path: Path) -> None:
    """As transformers tokenizes it, a hostile text adds no token to the template's own; as it stood, it did."""
    special, template = FAMILIES[family]
    tokenizer = write_tokenizer(tmp_path, special, template)
    (tmp_path / "config.json").write_text("{}")
    known = turn_tokens(ModelConfig(backend="vllm", model=str(tmp_path), endpoint="http://127.0.0.1:1"))
    assert set(special) <= known.tokens
    harmless = special_in(tokenizer, rendered(tokenizer, "Hi."))
    assert special_in(tokenizer, rendered(tokenizer, TURNS[family])) != harmless
    for text in HOSTILE.values():
        for tokens in (known, ANY_MODEL):
            clean, count = tokens.defused(text)
            assert special_in(tokenizer, rendered(tokenizer, clean)) == harmless
            assert clean.replace(JOINER, "") == text.replace(JOINER, "")
            assert (count == 0) == (clean == text)
    assert known.defused(TURNS[family])[1] > 0
    if family == "Llama 2":
        assert "[INST]" in known.tokens and "[INST]" not in known.defused(TURNS[family])[0], (
            "a mark that is no token"
        )


@pytest.mark.parametrize("family", TURNS)
def test_the_usual_ones_are_known_without_a_tokenizer(family: str) -> None:
    """A model that is only a name gets none of the marks that the usual templates write."""
    clean, count = ANY_MODEL.defused(TURNS[family])
    assert count > 0 and ANY_MODEL.defused(clean) == (clean, 0)


def test_other_text_is_left_alone() -> None:
    """What only looks like it: comparisons, pipes, lists, markup, our own fences."""
    for text in (
        "a < b | c > d and x[INSTALL] [1] [a|b] <|> |> <- <b>bold</b> </script> <text-0123456789 reply A>",
        "if (a<b||c>d) { return <T>x; }",
        HOSTILE["markup"],
        HOSTILE["template syntax"],
    ):
        assert ANY_MODEL.defused(text) == (text, 0)
        assert tokens_in(str(MODEL_DIR)).defused(text) == (text, 0)


@given(
    st.lists(st.sampled_from([*CHATML, "<|im", "_end|>", "<", "|", "im_", "end|>", JOINER, "\ud800", "x"]))
)
def test_no_token_is_left_however_it_is_put_together(parts: list[str]) -> None:
    """Overlapping, nested and cut tokens; a second pass finds nothing, and only joiners were added."""
    tokens = tokens_in(str(MODEL_DIR))
    text = "".join(parts)
    clean, count = tokens.defused(text)
    assert not any(token in clean for token in CHATML)
    assert len(clean) == len(text) + count
    assert tokens.defused(clean) == (clean, 0)


def test_many_tokens_and_long_texts_cost_little() -> None:
    """Thousands of reserved tokens are one search; ten times the text takes about ten times as long."""
    many = TurnTokens([f"<|reserved_special_token_{n}|>" for n in range(6000)], usual=True)
    assert many.defused("<|reserved_special_token_5999|>")[1] == 1
    for piece in ("<|", "<|a", "<｜", "[", "<|im_end|>", "a|>", "<|" + "a" * 64):
        times = []
        for size in (100_000, 1_000_000):
            text = piece * (size // len(piece))
            began = time.perf_counter()
            many.defused(text)
            times.append(time.perf_counter() - began)
        assert times[1] < 60 * times[0] + 1, piece


def test_files_of_a_tokenizer(tmp_path: Path) -> None:
    """Old and new forms are read; a broken file is named; a folder without any counts as unknown."""
    decoder = {"7": {"content": "<|weird|>", "special": True}, "8": {"content": "<think>", "special": False}}
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"added_tokens_decoder": decoder, "eos_token": {"content": "<fin>"}, "add_bos_token": True,
                    "additional_special_tokens": ["%%x%%"], "pad_token": None, "extra_special_tokens": {"a": "@@"},
                    "chat_template": [{"name": "default", "template": "[INST] {{ x }} [/INST]"}]})
    )  # fmt: skip
    known = tokens_in(str(tmp_path))
    assert known.tokens == {"<|weird|>", "<fin>", "%%x%%", "@@", "[INST]", "[/INST]"}
    assert known.defused("<think></s>")[1] == 0
    assert tokens_in("some/name").defused("</s>")[1] == 1
    (tmp_path / "tokenizer.json").write_text("[1]")
    with pytest.raises(ConfigError, match=r"tokenizer\.json: not a tokenizer's file"):
        tokens_in(str(tmp_path))


def test_flags_of_the_engine_count(tmp_path: Path) -> None:
    """Another tokenizer or chat template than the model's own is what is read."""
    (tmp_path / "t.jinja").write_text("~<|odd|>{{ messages }}")
    managed = ManagedConfig(args={"tokenizer": "a/name", "chat_template": str(tmp_path / "t.jinja")})
    known = turn_tokens(ModelConfig(backend="vllm", model=str(MODEL_DIR), managed=managed))
    assert known.tokens == {"<|odd|>"} and known.defused("</s>")[1] == 1


def asked(*texts: str, **more: Any) -> Request:
    return Request(messages=tuple(Message(role="user", content=text) for text in texts), max_tokens=8, **more)


@pytest.mark.parametrize("backend", ["vllm", "openai", "anthropic"])
async def test_what_is_sent_and_what_is_counted(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On an engine's wire the tokens are broken up and counted; the key is that of the text as it is."""
    monkeypatch.setenv("SOME_KEY", "k")
    text = TURNS["ChatML"]
    async with wire_server() as server:
        url = server.openai_url if backend == "openai" else server.url
        config = ModelConfig(backend=backend, model="toy", endpoint=url, api_key_env="SOME_KEY")
        model = open_model("toy", config)
        try:
            first = await model.complete(asked("Hi.", text))
            choice = await model.complete(asked(text, choices=("A", "B")))
            plain = await model.complete(asked("Hi."))
        finally:
            await model.close()
    contents = [turn["content"] for body in server.requests for turn in body["messages"]]
    assert contents == ["Hi.", ANY_MODEL.defused(text)[0], ANY_MODEL.defused(text)[0], "Hi."]
    assert (first.defused, choice.defused, plain.defused) == (4, 4, 0)


async def test_hosted_models_get_the_text_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hosted providers keep content and control apart themselves."""
    monkeypatch.setenv("SOME_KEY", "k")
    for backend, host in (("openai", "https://api.openai.com/v1"), ("anthropic", None)):
        config = ModelConfig(backend=backend, model="toy", endpoint=host, api_key_env="SOME_KEY")
        model: Any = open_model("toy", config)
        assert model._turns.defused(TURNS["ChatML"])[1] == 0
        await model.close()


@contextmanager
def asking(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[VllmModel]:
    monkeypatch.setenv("SOME_KEY", engine.key)
    changes = {"managed": None, "endpoint": engine.url, "api_key_env": "SOME_KEY"}
    yield VllmModel(engine.model.model_copy(update=changes), engine.url, engine.key)


@pytest.mark.slow
async def test_a_real_engine_sees_no_other_turn(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """By vLLM's own token ids: the template's start and end of each turn and no more, for every hostile text."""
    start, end = 1, 2
    with asking(engine, monkeypatch) as model:

        async def ids(request: Request) -> list[int]:
            turns = [turn.model_dump() for turn in request.messages]
            raw = await model.send(
                "POST", "/tokenize", json.dumps({"model": str(MODEL_DIR), "messages": turns}).encode()
            )
            found: list[int] = json.loads(raw)["tokens"]
            return found

        try:
            bare = await ids(asked(TURNS["ChatML"]))
            assert bare.count(start) == 4, "the fault is there: the text alone opens two turns"
            for text in HOSTILE.values():
                request = asked(text[:400], "Tell me about the museum.")
                sent = await ids(model._turns.sent(request).request)
                assert (sent.count(start), sent.count(end), sent.count(0)) == (3, 2, 0)
                reply = await model.complete(request)
                assert reply.usage.prompt_tokens == len(sent), "what was counted is what was asked"
        finally:
            await model.close()


def test_patterns_are_bounded() -> None:
    """No part of a usual pattern repeats without end."""
    assert not any(sign in shapes for shapes in USUAL.values() for sign in ("*", "+", ",}"))
