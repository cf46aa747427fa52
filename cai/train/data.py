"""Exported rows as a dataset on disk, in the form that a trainer reads: whatever else they carry stays unread.

Types are declared, not inferred: a column that is empty in the first rows changes nothing. Every function raises
ConfigError for a row that lacks what is needed, and for a file without rows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, List, Value

from cai.errors import ConfigError
from cai.train.plan import TrainPlan

_MESSAGES = List({"role": Value("string"), "content": Value("string")})
_PAIR = ("prompt", "chosen", "rejected")
Row = dict[str, Any]


def demonstrations(plan: TrainPlan) -> Any:
    """`prompt` and `completion`, as SFT takes them."""
    return _dataset(plan, _rows, {"columns": ("prompt", "completion")}, ("prompt", "completion"))


def pairs(plan: TrainPlan) -> Any:
    """`prompt`, `chosen` and `rejected`."""
    return _dataset(plan, _rows, {"columns": _PAIR}, _PAIR)


def labelled_pairs(plan: TrainPlan) -> Any:
    """Pairs with `p`, the probability that `chosen` is better: each row's own, or the plan's for every row."""
    constant = None if plan.soft_labels is True else float(plan.soft_labels)
    return _dataset(plan, _labelled, {"constant": constant}, _PAIR, p=Value("float32"))


def pairs_with_margin(plan: TrainPlan) -> Any:
    """Pairs with `margin`, the log-odds of the label."""
    return _dataset(plan, _rows, {"columns": _PAIR, "number": "margin"}, _PAIR, margin=Value("float32"))


def unpaired(plan: TrainPlan) -> Any:
    """`prompt`, `completion` and `label`, each reply of a prompt once a label, in an order of the seed's.

    The order matters: KTO takes rows as they come, and measures its KL on the other replies of a batch.
    """
    columns = ("prompt", "completion")
    return _dataset(plan, _unpaired, {}, columns, label=Value("bool")).shuffle(seed=plan.seed)


def prompts(plan: TrainPlan) -> Any:
    """Every `prompt` of the pairs, once."""
    return _dataset(plan, _prompts, {}, ("prompt",))


def _dataset(
    plan: TrainPlan,
    generate: Callable[..., Iterator[Row]],
    more: dict[str, Any],
    messages: tuple[str, ...],
    **numbers: Any,
) -> Any:
    """The rows that `generate` makes of `plan.data` (JSONL, or Parquet by its suffix), memory-mapped."""
    features = Features(dict.fromkeys(messages, _MESSAGES) | numbers)
    source = {"path": plan.data, "kind": plan.kind, "sha256": plan.data_sha256} | more
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
    path: str, kind: str, sha256: str, columns: tuple[str, ...], number: str | None = None
) -> Iterator[Row]:
    """Yield the columns of each row; `sha256` is here to be part of the dataset's cache key."""
    part = "preference" if "chosen" in columns else "sft"
    for place, row in enumerate(_parquet(path) if path.endswith(".parquet") else _jsonl(path), start=1):
        try:
            found: Row = {
                column: [{"role": turn["role"], "content": turn["content"]} for turn in row[column]]
                for column in columns
            }
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


def _labelled(path: str, kind: str, sha256: str, constant: float | None) -> Iterator[Row]:
    number = "p" if constant is None else None
    for place, row in enumerate(_rows(path, kind, sha256, _PAIR, number), start=1):
        row.setdefault("p", constant)
        if not 0 <= row["p"] <= 1:
            raise ConfigError(f"{path}: row {place}: p is {row['p']:g}; soft labels are probabilities")
        yield row


def _unpaired(path: str, kind: str, sha256: str) -> Iterator[Row]:
    seen: set[int] = set()
    for pair in _rows(path, kind, sha256, _PAIR):
        for column, label in (("chosen", True), ("rejected", False)):
            row = {"prompt": pair["prompt"], "completion": pair[column], "label": label}
            if _is_new(row, seen):
                yield row


def _prompts(path: str, kind: str, sha256: str) -> Iterator[Row]:
    seen: set[int] = set()
    for pair in _rows(path, kind, sha256, _PAIR):
        row = {"prompt": pair["prompt"]}
        if _is_new(row, seen):
            yield row


def _is_new(row: Row, seen: set[int]) -> bool:
    key = hash(json.dumps(row))
    if key in seen:
        return False
    seen.add(key)
    return True


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number")
    return float(value)


def _jsonl(path: str) -> Iterator[Row]:
    with Path(path).open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                yield json.loads(line)
            except ValueError as error:
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
