"""Exported rows as a dataset on disk: only the columns that a trainer reads, whatever else they carry."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, List, Value

from cai.errors import ConfigError
from cai.train.plan import TrainPlan

_MESSAGES = List({"role": Value("string"), "content": Value("string")})


def load_rows(plan: TrainPlan, columns: tuple[str, ...]) -> Any:
    """The rows of `plan.data` (JSONL, or Parquet by its suffix) with `columns` of messages, memory-mapped.

    Declared types instead of inferred ones: a column that is empty in the first rows changes nothing.
    Raises ConfigError for a row without one of the columns, or a file without rows.
    """
    features = Features(dict.fromkeys(columns, _MESSAGES))
    source = {"path": plan.data, "columns": columns, "sha256": plan.data_sha256}
    try:
        dataset = Dataset.from_generator(
            _read, features=features, gen_kwargs=source, cache_dir=str(plan.work / "cache")
        )
    except Exception as error:
        raise _cause(error) from error
    if len(dataset) == 0:
        raise ConfigError(f"{plan.data}: holds no rows to train on")
    return dataset


def _read(path: str, columns: tuple[str, ...], sha256: str) -> Iterator[dict[str, list[dict[str, str]]]]:
    """Yield the columns of each row; `sha256` is here to be part of the dataset's cache key."""
    rows = _parquet(path) if path.endswith(".parquet") else _jsonl(path)
    for number, row in enumerate(rows, start=1):
        try:
            yield {
                column: [{"role": turn["role"], "content": turn["content"]} for turn in row[column]]
                for column in columns
            }
        except (KeyError, TypeError) as error:
            problem = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            wanted = f"a row holds lists of {{role, content}} under {', '.join(columns)}"
            raise ConfigError(f"{path}: row {number}: {problem}; {wanted}") from error


def _jsonl(path: str) -> Iterator[dict[str, Any]]:
    with Path(path).open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise ConfigError(f"{path}:{number}: not a JSON object: {error}") from error


def _parquet(path: str) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as parquet

    for batch in parquet.ParquetFile(path).iter_batches():
        yield from batch.to_pylist()


def _cause(error: BaseException) -> BaseException:
    """The ConfigError that `datasets` wrapped in an error of its own, or that error."""
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, ConfigError):
        inner = inner.__cause__ or inner.__context__
    return inner or error
