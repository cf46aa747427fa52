"""Tokens of every row, counted before a model is loaded: what `max_length` would cut, and pairs without a difference.

TRL cuts rows without a word, and drops those of which no reply is left (a reward model's, all that are too long).
Here they are counted, and a training that would lose more than `CUT_LIMIT` of its rows is refused. One batched
pass, in as many processes as `dataset_num_proc`; what it finds lies beside the rows, two numbers a row.
"""

from __future__ import annotations

from typing import Any

import numpy

from cai.config import Kind
from cai.errors import ConfigError
from cai.train.findings import RowCounts
from cai.train.plan import TrainPlan

CUT_LIMIT = 0.01
# Why a row is left out; its place is the number that the pass notes, 0 for a row that stays.
REASONS = ("", "identical", "identical_when_cut", "no_reply_left", "too_long")
_KEEP, _IDENTICAL, _IDENTICAL_WHEN_CUT, _NO_REPLY_LEFT, _TOO_LONG = range(len(REASONS))
# ORPO and CPO tokenize in a way of their own: an end token after the template's last, 512 tokens without a limit.
_OLD: tuple[Kind, ...] = ("orpo", "cpo")
_OLD_MAX_LENGTH = 512


def checked_rows(plan: TrainPlan, args: Any, tokenizer: Any, rows: Any) -> tuple[Any, RowCounts]:
    """The rows to train on, without those that nothing can be learned from, and the counts.

    Raises ConfigError where more than `CUT_LIMIT` of them would be cut, or none are left.
    """
    limit = args.max_length
    if limit is None and plan.kind in _OLD:
        limit = _OLD_MAX_LENGTH
    if getattr(args, "packing", False) and args.packing_strategy != "bfd":
        limit = None  # the other strategies go on in the next pack
    how = {"tokenizer": tokenizer, "kind": plan.kind, "limit": limit}
    with args.main_process_first(local=False, desc="measuring the rows"):
        measured = rows.map(
            _measure, batched=True, remove_columns=rows.column_names, fn_kwargs=how,
            num_proc=args.dataset_num_proc, desc="Measuring rows",
        )  # fmt: skip
    found = measured.with_format("numpy")[:]
    tokens, fates = found["tokens"], found["fate"]
    cut = int((tokens > limit).sum()) if limit is not None else 0
    if cut > CUT_LIMIT * len(rows):
        raise ConfigError(_refusal(plan, tokens, limit, cut))
    kept = numpy.flatnonzero(fates == _KEEP)
    dropped = {reason: n for n, reason in zip(_tally(fates), REASONS, strict=True) if n and reason}
    if not len(kept):
        raise ConfigError(f"{plan.data}: no row is left to train on: {_listed(dropped)}")
    counts = RowCounts(rows=len(rows), longest=int(tokens.max()), max_length=limit, cut=cut, dropped=dropped)
    return (rows if len(kept) == len(rows) else rows.select(kept)), counts


def told(counts: RowCounts) -> str:
    """The counts as a line of the log."""
    limit = "no max_length" if counts.max_length is None else f"max_length {counts.max_length}"
    left_out = f"; left out: {_listed(counts.dropped)}" if counts.dropped else ""
    return f"rows: {counts.rows}, longest {counts.longest} tokens, {counts.cut} cut at {limit}{left_out}"


def _refusal(plan: TrainPlan, tokens: Any, limit: int, cut: int) -> str:
    allowed = int(CUT_LIMIT * len(tokens))
    enough = int(numpy.partition(tokens, len(tokens) - 1 - allowed)[len(tokens) - 1 - allowed])
    longest = int(tokens.max())
    fewer = f", or to {enough} to cut no more than {CUT_LIMIT:.0%}" if enough < longest else ""
    return (
        f"{plan.data}: {cut} of {len(tokens)} rows ({cut / len(tokens):.1%}) are longer than max_length {limit} and "
        f"would be cut; the longest has {longest} tokens: set {plan.kind}.args.max_length to {longest}{fewer}"
    )


def _measure(batch: dict[str, Any], tokenizer: Any, kind: Kind, limit: int | None) -> dict[str, Any]:
    """Of each row: `tokens`, and `fate`, a place in REASONS."""
    replies = ("chosen", "rejected") if "chosen" in batch else ("completion",)
    sides = [_tokenized(batch["prompt"], batch[reply], tokenizer, kind) for reply in replies]
    tokens = [max(map(len, row)) for row in zip(*sides, strict=True)]
    if len(sides) == 2:
        fates = [_fate_of_pair(one, other, kind, limit) for one, other in zip(*sides, strict=True)]
    else:
        fates = [_KEEP] * len(tokens)
        long = [place for place, length in enumerate(tokens) if limit is not None and length > limit]
        asked = [batch["prompt"][place] for place in long]
        prompts = _ids(asked, tokenizer, add_generation_prompt=True) if long else []
        for place, prompt in zip(long, prompts, strict=True):
            if sides[0][place][:limit] == prompt[:limit]:
                fates[place] = _NO_REPLY_LEFT
    return {"tokens": numpy.array(tokens, "int32"), "fate": numpy.array(fates, "int8")}


def _fate_of_pair(chosen: list[int], rejected: list[int], kind: Kind, limit: int | None) -> int:
    if chosen == rejected:
        return _IDENTICAL
    if limit is None or max(len(chosen), len(rejected)) <= limit:
        return _KEEP
    if kind == "reward":
        return _TOO_LONG
    return _IDENTICAL_WHEN_CUT if chosen[:limit] == rejected[:limit] else _KEEP


def _tokenized(prompts: list[Any], replies: list[Any], tokenizer: Any, kind: Kind) -> list[list[int]]:
    found = _ids([prompt + reply for prompt, reply in zip(prompts, replies, strict=True)], tokenizer)
    if kind in _OLD:
        end = tokenizer.eos_token_id
        found = [ids if ids[-1] == end else [*ids, end] for ids in found]
    return found


def _ids(conversations: list[Any], tokenizer: Any, **how: Any) -> list[list[int]]:
    ids: list[list[int]] = tokenizer.apply_chat_template(conversations, tokenize=True, **how)["input_ids"]
    return ids


def _tally(fates: Any) -> list[int]:
    tally: list[int] = numpy.bincount(fates, minlength=len(REASONS)).tolist()
    return tally


def _listed(dropped: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in dropped.items())
