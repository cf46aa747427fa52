"""Exported rows as a dataset on disk, in the form that a trainer reads: whatever else they carry stays unread.

Types are declared, not inferred: a column that is empty in the first rows changes nothing. Turn tokens in a text are
broken up here (`cai.models.turns`), so that it trains on its own words and not on turns that nobody took; the file
keeps them. Every function raises ConfigError for a row that lacks what is needed, and for a file without rows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
from datasets import Dataset, Features, List, Value

from cai.errors import ConfigError
from cai.models.turns import TurnTokens
from cai.train.plan import TrainPlan

_MESSAGES = List({"role": Value("string"), "content": Value("string")})
_PAIR = ("prompt", "chosen", "rejected")
# About the text of a row: turn tokens in it that were broken up; it holds half a surrogate pair, and no text is here.
_NOTES = {"defused": Value("int32"), "unwritable": Value("bool")}
Row = dict[str, Any]


def demonstrations(plan: TrainPlan, turns: TurnTokens) -> Any:
    """`prompt` and `completion`, as SFT takes them."""
    return _dataset(plan, turns, _rows, {"columns": ("prompt", "completion")}, ("prompt", "completion"))


def pairs(plan: TrainPlan, turns: TurnTokens) -> Any:
    """`prompt`, `chosen` and `rejected`."""
    return _dataset(plan, turns, _rows, {"columns": _PAIR}, _PAIR)


def labelled_pairs(plan: TrainPlan, turns: TurnTokens) -> Any:
    """Pairs with `p`, the probability that `chosen` is better: each row's own, or the plan's for every row."""
    constant = None if plan.soft_labels is True else float(plan.soft_labels)
    return _dataset(plan, turns, _labelled, {"constant": constant}, _PAIR, p=Value("float32"))


def pairs_with_margin(plan: TrainPlan, turns: TurnTokens) -> Any:
    """Pairs with `margin`, the log-odds of the label."""
    return _dataset(
        plan, turns, _rows, {"columns": _PAIR, "number": "margin"}, _PAIR, margin=Value("float32")
    )


def unpaired(plan: TrainPlan, turns: TurnTokens) -> Any:
    """`prompt`, `completion` and `label`, each reply of a prompt once a label, in an order of the seed's.

    The order matters: KTO takes rows as they come, and measures its KL on the other replies of a batch.
    """
    columns = ("prompt", "completion")
    return _dataset(plan, turns, _unpaired, {}, columns, label=Value("bool")).shuffle(seed=plan.seed)


def prompts(plan: TrainPlan, turns: TurnTokens) -> Any:
    """Every `prompt` of the pairs, once."""
    return _dataset(plan, turns, _prompts, {}, ("prompt",))


def writable(rows: Any) -> tuple[Any, int, int]:
    """The rows that a tokenizer takes, without notes; in how many turn tokens were broken up, and how many are lost.

    A text with half a surrogate pair has no form in UTF-8, so there is nothing that could be trained on.
    """
    notes = rows.select_columns(list(_NOTES)).with_format("numpy")[:]
    lost = notes["unwritable"]
    kept = rows.select(numpy.flatnonzero(~lost)) if lost.any() else rows
    return kept.remove_columns(list(_NOTES)), int((notes["defused"] > 0).sum()), int(lost.sum())


def _dataset(
    plan: TrainPlan,
    turns: TurnTokens,
    generate: Callable[..., Iterator[Row]],
    more: dict[str, Any],
    messages: tuple[str, ...],
    **numbers: Any,
) -> Any:
    """The rows that `generate` makes of `plan.data` (JSONL, or Parquet by its suffix), memory-mapped."""
    features = Features(dict.fromkeys(messages, _MESSAGES) | numbers | _NOTES)
    tokens = tuple(sorted(turns.tokens))
    source = {"path": plan.data, "kind": plan.kind, "sha256": plan.data_sha256, "tokens": tokens} | more
    try:
        dataset = Dataset.from_generator(
            generate, features=features, gen_kwargs=source, cache_dir=str(plan.work / "cache")
        )
    except Exception as error:
        raise _cause(error) from error
    if len(dataset) == 0:
        raise ConfigError(f"{plan.data}: holds no rows to train on")
    return dataset


def _rows(
    path: str,
    kind: str,
    sha256: str,
    tokens: tuple[str, ...],
    columns: tuple[str, ...],
    number: str | None = None,
    beside: tuple[str, ...] = (),
) -> Iterator[Row]:
    """Yield the columns of each row; `sha256` is here to be part of the dataset's cache key. `tokens`: to break up.

    `beside`: columns that a row of this part must have, though nothing of them is read.
    """
    part = "sft" if "completion" in columns else "preference"
    turns = TurnTokens(tokens, usual=False)
    for place, row in enumerate(_parquet(path) if path.endswith(".parquet") else _jsonl(path), start=1):
        try:
            if lacking := [column for column in beside if column not in row]:
                raise KeyError(lacking[0])
            found = _texts({column: row[column] for column in columns}, turns)
            if number is not None:
                found[number] = _number(row[number])
        except (KeyError, TypeError, ValueError) as error:
            problem = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            wanted = f"lists of {{role, content}} under {', '.join(columns)}"
            wanted += f", and a number under {number}" if number else ""
            raise ConfigError(
                f"{path}: row {place}: {problem}; {kind} takes the dataset's {part} rows: {wanted}"
            ) from error
        yield found


def _texts(row: Row, turns: TurnTokens) -> Row:
    """The turns of each column, with what is to be said about them. Raises KeyError, TypeError or ValueError."""
    found: Row = {}
    defused, unwritable = 0, False
    for column, said in row.items():
        if not said:
            raise ValueError(f"there is no turn under {column}")
        found[column] = []
        for turn in said:
            told: Row = {}
            for name in ("role", "content"):
                if not isinstance(turn[name], str):
                    raise TypeError(f"{turn[name]!r:.40} is no {name}")
                told[name], count = turns.defused(turn[name])
                defused += count
                unwritable |= not _is_writable(told[name])
            found[column].append(told)
    if unwritable:
        found = {column: [] for column in row}
    return found | {"defused": defused, "unwritable": unwritable}


def _is_writable(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _labelled(
    path: str, kind: str, sha256: str, tokens: tuple[str, ...], constant: float | None
) -> Iterator[Row]:
    number = "p" if constant is None else None
    for place, row in enumerate(_rows(path, kind, sha256, tokens, _PAIR, number), start=1):
        row.setdefault("p", constant)
        if not 0 <= row["p"] <= 1:
            raise ConfigError(f"{path}: row {place}: p is {row['p']:g}; soft labels are probabilities")
        yield row


def _unpaired(path: str, kind: str, sha256: str, tokens: tuple[str, ...]) -> Iterator[Row]:
    seen: set[int] = set()
    for pair in _rows(path, kind, sha256, tokens, _PAIR):
        for column, label in (("chosen", True), ("rejected", False)):
            row = {"prompt": pair["prompt"], "completion": pair[column], "label": label, **_notes(pair)}
            if pair["unwritable"] or _is_new(row, seen):
                yield row


def _prompts(path: str, kind: str, sha256: str, tokens: tuple[str, ...]) -> Iterator[Row]:
    seen: set[int] = set()
    for pair in _rows(path, kind, sha256, tokens, ("prompt",), beside=_PAIR):
        if pair["unwritable"] or _is_new(pair, seen):
            yield pair


def _notes(row: Row) -> Row:
    return {name: row[name] for name in _NOTES}


def _is_new(row: Row, seen: set[int]) -> bool:
    key = hash(json.dumps({name: value for name, value in row.items() if name not in _NOTES}))
    if key in seen:
        return False
    seen.add(key)
    return True


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number")
    return float(value)


def _jsonl(path: str) -> Iterator[Row]:
    with Path(path).open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ConfigError(f"{path}:{number}: not a JSON object: {error}") from error


def _parquet(path: str) -> Iterator[Row]:
    import pyarrow.parquet as parquet

    for batch in parquet.ParquetFile(path).iter_batches():
        yield from batch.to_pylist()


def _cause(error: BaseException) -> BaseException:
    """The ConfigError that `datasets` wrapped in an error of its own, or that error."""
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, ConfigError):
        inner = inner.__cause__ or inner.__context__
    return inner or error
