"""Tokens of every row, counted before a model is loaded: what `max_length` would cut, and pairs without a difference.

TRL cuts rows without a word, and drops those of which no reply is left (a reward model's, all that are too long).
Here they are counted, and a training that would lose more than `CUT_LIMIT` of its rows is refused. One batched
pass, in as many processes as `dataset_num_proc`, that tokenizes only what may be too long.
"""

from __future__ import annotations

from typing import Any

import numpy

from cai.config import Kind
from cai.errors import ConfigError
from cai.train.findings import RowCounts, listed
from cai.train.plan import TrainPlan

CUT_LIMIT = 0.01
# Why a row is left out; its place is the number that the pass notes, 0 for a row that stays.
REASONS = ("", "identical", "identical_when_cut", "no_reply_left", "too_long")
_KEEP, _IDENTICAL, _IDENTICAL_WHEN_CUT, _NO_REPLY_LEFT, _TOO_LONG = range(len(REASONS))
# ORPO and CPO tokenize in a way of their own: an end token after the template's last, 512 tokens without a limit.
_OLD: tuple[Kind, ...] = ("orpo", "cpo")
_OLD_MAX_LENGTH = 512
_ADDED = 2  # tokens that may come on top of the text: ORPO's and CPO's end, and a mark at the start


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
        raise ConfigError(f"{plan.data}: no row is left to train on: {listed(dropped)}")
    counts = RowCounts(rows=len(rows), longest=int(tokens.max()), max_length=limit, cut=cut, dropped=dropped)
    return (rows if len(kept) == len(rows) else rows.select(kept)), counts


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
    """Of each row: `tokens`, 0 for one that needed no counting, and `fate`, a place in REASONS."""
    replies = ("chosen", "rejected") if "chosen" in batch else ("completion",)
    asked = [
        _rendered([*map(list.__add__, batch["prompt"], batch[reply])], tokenizer=tokenizer)
        for reply in replies
    ]
    rows = list(zip(*asked, strict=True))
    tokens, fates = [0] * len(rows), [_KEEP] * len(rows)
    plain = [[_normal(text, tokenizer) for text in row] for row in rows]
    for place, row in enumerate(plain):
        if len(row) == 2 and row[0] == row[1]:
            fates[place] = _IDENTICAL
    counted = _to_count(plain, tokenizer, limit)
    ids = iter(_ids([text for place in counted for text in rows[place]], tokenizer, kind))
    for place in counted:
        sides = [next(ids) for _ in replies]
        tokens[place] = max(map(len, sides))
        if len(sides) == 2:
            fates[place] = _fate_of_pair(*sides, kind=kind, limit=limit)
        elif limit is not None and tokens[place] > limit:
            (prompt,) = _rendered([batch["prompt"][place]], tokenizer, add_generation_prompt=True)
            if sides[0][:limit] == _ids([prompt], tokenizer, kind)[0][:limit]:
                fates[place] = _NO_REPLY_LEFT
    return {"tokens": numpy.array(tokens, "int32"), "fate": numpy.array(fates, "int8")}


def _to_count(plain: list[list[str]], tokenizer: Any, limit: int | None) -> list[int]:
    """Places of the rows that may be too long, and of the one with the most bytes; of all, where bytes say nothing.

    Each token of a BPE that knows every byte stands for one byte or more, so that most rows need no counting.
    """
    model: Any = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    if type(model).__name__ != "BPE" or (model.unk_token is not None and not model.byte_fallback):
        return list(range(len(plain)))
    sizes = [max(len(text.encode()) for text in row) for row in plain]
    most = sizes.index(max(sizes))
    return [n for n, size in enumerate(sizes) if n == most or (limit is not None and size + _ADDED > limit)]


def _fate_of_pair(chosen: list[int], rejected: list[int], *, kind: Kind, limit: int | None) -> int:
    if chosen == rejected:
        return _IDENTICAL
    if limit is None or max(len(chosen), len(rejected)) <= limit:
        return _KEEP
    if kind == "reward":
        return _TOO_LONG
    return _IDENTICAL_WHEN_CUT if chosen[:limit] == rejected[:limit] else _KEEP


def _rendered(conversations: list[Any], tokenizer: Any, **how: Any) -> list[str]:
    texts: list[str] = tokenizer.apply_chat_template(conversations, tokenize=False, **how)
    return texts


def _normal(text: str, tokenizer: Any) -> str:
    """The text as the tokenizer's model gets it."""
    normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
    return text if normalizer is None else str(normalizer.normalize_str(text))


def _ids(texts: list[str], tokenizer: Any, kind: Kind) -> list[list[int]]:
    found: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    if kind in _OLD:
        end = tokenizer.eos_token_id
        found = [ids if ids[-1] == end else [*ids, end] for ids in found]
    return found


def _tally(fates: Any) -> list[int]:
    tally: list[int] = numpy.bincount(fates, minlength=len(REASONS)).tolist()
    return tally
