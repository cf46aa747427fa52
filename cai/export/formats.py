"""The formats of `cai export`: what each makes of a row, what it can hold, and who reads it.

A format is a function from a row of the run's dataset to rows of the format, with the checks that a row must pass
first (`cai.export.held`); a row with half a character in it is left out of all of them. The schemas are those that
the readers document; where, each function says.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

from cai.export.held import (
    Check,
    control_tokens,
    in_turn,
    no_system,
    one_turn,
    speakable,
    user_last,
)
from cai.imports.chains import transcript
from cai.rows import Demonstration, Message, Pair, Stepwise
from cai.sources.conversation import BEFORE
from cai.sources.records import GUARDED

Made = dict[str, Any]
FormatName = Literal[
    "trl", "sft", "kto", "reward", "axolotl", "llama-factory", "openrlhf", "openai", "openai-sft", "anthropic-hh",
    "csv", "stepwise",
]  # fmt: skip
Kind = Literal["parquet", "jsonl", "csv"]
_FORMULA = tuple(
    "=+-@\t\r\n＝＋－＠"
)  # what a spreadsheet may take for the start of a formula (OWASP: CSV injection)


class Format(NamedTuple):
    """One format. `make`: its rows from a row of `part`, a `Pair`, a `Demonstration` or a `Stepwise`.

    `tags`: what it is on a hub. `unique`: a row that came before is left out, as `duplicate`. `labelled`: a pair that
    no judge has labelled is left out, as `no_p`.
    """

    reader: str
    part: Literal["preference", "sft", "stepwise"]
    kind: Kind
    make: Callable[[Any], Iterator[Made]]
    checks: tuple[Check, ...]
    tags: tuple[str, ...]
    unique: bool = False
    labelled: bool = False


def _turns(turns: tuple[Message, ...]) -> list[Made]:
    return [{"role": turn.role, "content": turn.content} for turn in turns]


def _known(row: Pair | Demonstration) -> Made:
    """What else is known of a row; trainers pass over it."""
    labels = (
        {"p": row.p, "margin": row.margin, "source": row.source, "principles": list(row.principles)}
        if isinstance(row, Pair)
        else {"source": row.source}
    )
    return {"id": row.id, **labels, "tags": list(row.tags), "lineage": row.lineage}


def _trl(pair: Pair) -> Iterator[Made]:
    """TRL's conversational preference format with an explicit prompt (TRL, "Dataset formats and types")."""
    texts = {"prompt": _turns(pair.prompt), "chosen": _turns(pair.chosen), "rejected": _turns(pair.rejected)}
    yield {**texts, **_known(pair)}


def _sft(row: Demonstration) -> Iterator[Made]:
    """TRL's conversational prompt-completion format (TRL, "Dataset formats and types")."""
    yield {"prompt": _turns(row.prompt), "completion": _turns(row.completion), **_known(row)}


def _kto(pair: Pair) -> Iterator[Made]:
    """TRL's conversational unpaired preference format: each reply by itself, desirable or not."""
    for completion, label in ((pair.chosen, True), (pair.rejected, False)):
        yield {
            "prompt": _turns(pair.prompt),
            "completion": _turns(completion),
            "label": label,
            **{name: value for name, value in _known(pair).items() if name != "margin"},
        }


def _reward(pair: Pair) -> Iterator[Made]:
    """TRL's preference format with an implicit prompt, and `margin` for its reward trainer's loss."""
    yield {
        "chosen": _turns(pair.prompt + pair.chosen),
        "rejected": _turns(pair.prompt + pair.rejected),
        **_known(pair),
    }


def _axolotl(pair: Pair) -> Iterator[Made]:
    """Axolotl's `chat_template.default` of its DPO data: `messages`, and one message each (docs/rlhf)."""
    (chosen,), (rejected,) = _turns(pair.chosen), _turns(pair.rejected)
    yield {
        "messages": _turns(pair.prompt),
        "chosen": chosen,
        "rejected": rejected,
        "id": pair.id,
        "p": pair.p,
    }


def _llama_factory(pair: Pair) -> Iterator[Made]:
    """LLaMA-Factory's preference data in ShareGPT style (its data/README.md)."""
    (chosen,), (rejected,) = map(_shared, (pair.chosen, pair.rejected))
    yield {
        "conversations": _shared(pair.prompt),
        "chosen": chosen,
        "rejected": rejected,
        "id": pair.id,
        "p": pair.p,
    }


def _shared(turns: tuple[Message, ...]) -> list[Made]:
    speakers = {"system": "system", "user": "human", "assistant": "gpt"}
    return [{"from": speakers[turn.role], "value": turn.content} for turn in turns]


def _openrlhf(pair: Pair) -> Iterator[Made]:
    """OpenRLHF's `chosen_key` and `rejected_key` as whole conversations, for `apply_chat_template`."""
    yield {
        "chosen": _turns(pair.prompt + pair.chosen),
        "rejected": _turns(pair.prompt + pair.rejected),
        "margin": pair.margin,
        "id": pair.id,
    }


def _openai(pair: Pair) -> Iterator[Made]:
    """OpenAI's preference fine-tuning: these three fields and no others (guide "Direct preference optimization")."""
    yield {
        "input": {"messages": _turns(pair.prompt)},
        "preferred_output": _turns(pair.chosen),
        "non_preferred_output": _turns(pair.rejected),
    }


def _openai_sft(row: Demonstration) -> Iterator[Made]:
    """Chat fine-tuning data: `messages` alone (OpenAI, guide "Supervised fine-tuning"); most trainers read it."""
    yield {"messages": _turns(row.prompt + row.completion)}


def _hh(pair: Pair) -> Iterator[Made]:
    """The transcripts of Anthropic's hh-rlhf: `chosen` and `rejected`, each the whole dialogue."""
    yield {
        "chosen": transcript(pair.prompt + pair.chosen),
        "rejected": transcript(pair.prompt + pair.rejected),
    }


def _csv(pair: Pair) -> Iterator[Made]:
    """A table for people: one text a cell. `turns_before`: what stands before the last user turn, as JSON.

    Cells that a spreadsheet could take for a formula get an apostrophe before them, and `guarded` names them.
    """
    before = json.dumps(_turns(pair.prompt[:-1]), ensure_ascii=False) if len(pair.prompt) > 1 else ""
    cells = {
        "id": pair.id,
        BEFORE: before,
        "prompt": pair.prompt[-1].content,
        "chosen": pair.chosen[0].content,
        "rejected": pair.rejected[0].content,
        "p": pair.p,
        "margin": pair.margin,
        "source": pair.source,
        "principles": ", ".join(pair.principles),
        "tags": ", ".join(pair.tags),
        "lineage": pair.lineage,
    }
    guarded = [name for name, cell in cells.items() if isinstance(cell, str) and cell.startswith(_FORMULA)]
    yield {
        **cells,
        **{name: f"'{cells[name]}" for name in guarded},
        GUARDED: " ".join(guarded),
    }


def _stepwise(row: Stepwise) -> Iterator[Made]:
    """TRL's stepwise supervision, a plain-text format: the steps of a reply and whether each is good."""
    yield {
        "prompt": row.prompt,
        "completions": list(row.completions),
        "labels": list(row.labels),
        "step_p": list(row.p),
        "messages": _turns(row.messages),
        "principles": list(row.principles),
        "ended": row.ended,
        "id": row.id,
        "tags": list(row.tags),
        "lineage": row.lineage,
    }


_ANY = (user_last,)
_CHAT = (*_ANY, one_turn, control_tokens)
FORMATS: dict[FormatName, Format] = {
    "trl": Format(
        "TRL: DPO, ORPO, CPO …", "preference", "parquet", _trl, _CHAT, ("trl", "dpo", "preference")
    ),
    "sft": Format("TRL: SFT", "sft", "parquet", _sft, _CHAT, ("trl", "sft")),
    "kto": Format("TRL: KTO", "preference", "parquet", _kto, _CHAT, ("trl", "kto"), unique=True),
    "reward": Format(
        "TRL: reward models", "preference", "parquet", _reward, _CHAT, ("trl", "reward-model"), labelled=True
    ),
    "axolotl": Format("Axolotl", "preference", "jsonl", _axolotl, _CHAT, ("axolotl", "dpo", "preference")),
    "llama-factory": Format(
        "LLaMA-Factory", "preference", "jsonl", _llama_factory, (*_CHAT, in_turn), ("llama-factory", "dpo")
    ),
    "openrlhf": Format(
        "OpenRLHF", "preference", "jsonl", _openrlhf, _CHAT, ("openrlhf", "dpo", "preference")
    ),
    "openai": Format("OpenAI and Azure: DPO", "preference", "jsonl", _openai, (*_ANY, one_turn), ("dpo",)),
    "openai-sft": Format("OpenAI and most trainers: SFT", "sft", "jsonl", _openai_sft, _CHAT, ("sft",)),
    "anthropic-hh": Format(
        "tools made for hh-rlhf",
        "preference",
        "jsonl",
        _hh,
        (*_ANY, one_turn, no_system, in_turn, speakable),
        ("hh-rlhf", "preference"),
    ),
    "csv": Format("spreadsheets", "preference", "csv", _csv, (*_ANY, one_turn), ("preference",)),
    "stepwise": Format(
        "TRL: process reward models", "stepwise", "parquet", _stepwise, _CHAT, ("trl", "process-reward-model")
    ),
}
