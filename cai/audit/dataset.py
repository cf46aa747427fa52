"""`cai audit dataset`: what is wrong with preference data, whoever made it, in one pass and bounded memory.

What is cheap is looked for in every row; near copies, language, personal data and the classifier of label noise in a
sample of at most `sample` rows, drawn evenly (Vitter 1985, algorithm R) with a fixed seed, so that the same file gives
the same result. A share of a sample has its interval; its near copies are those within the sample, a lower bound.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from itertools import chain
from math import exp, log, sqrt
from pathlib import Path
from typing import Any, NamedTuple

from cai.audit import private, turns
from cai.audit.findings import Ledger, quote
from cai.audit.pairs import WANTED, Preference, preference_of, text_of
from cai.audit.read import none_fits, read
from cai.audit.repeats import ALIKE, GRAM, EvalPrompts, Repeats
from cai.audit.runs import is_run
from cai.audit.sampled import clipped, label_noise, look_at_sample, shown, texts_of
from cai.errors import ConfigError
from cai.intervals import rate
from cai.sources.records import BadRecord

SAMPLE = 10_000  # rows of the checks that are dear
SEED = 0

CHECKS = {
    "secrets": ("a key or token in a text (detect-secrets)", "rows"),
    "pii": ("personal data in a text (Presidio's patterns)", "rows"),
    "contamination": (f"a user turn is an eval prompt, or shares {GRAM} words in a row with one", "rows"),
    "label_noise": ("the label is wrong, as estimated", "pairs"),
    "contradictory": ("an earlier row has the same two replies with the opposite label", "rows"),
    "identical": ("both sides are the same text", "pairs"),
    "duplicates": ("an exact copy of an earlier row", "rows"),
    "near_duplicates": (f"nearly an earlier row: {ALIKE:.0%} of their word triples are shared", "rows"),
    "template_tokens": ("a control token of a chat template in a text", "rows"),
    "empty_turns": ("a turn or a side says nothing", "rows"),
    "role_order": ("roles out of order", "rows"),
    "language": ("a side is in another language than most of the dataset", "sides"),
    "unreadable": ("no preference is to be read from the row", "rows"),
    "length_bias": ("the longer side is the chosen one, equal lengths counting half", "pairs"),
}
EVERY = ("secrets", "duplicates", "contradictory", "template_tokens", "empty_turns", "role_order")


class _Lengths(NamedTuple):
    """Counts of one pass, by reference."""

    totals: Counter[str]
    ratios: Counter[int]


def audit_dataset(
    path: Path, ledger: Ledger, evals: Sequence[Path] = (), sample: int = SAMPLE
) -> dict[str, Any]:
    """Look at a dataset, or at that of a run; returns its figures. Raises ConfigError where it is none."""
    asked = EvalPrompts(evals) if evals else None
    lengths = _Lengths(Counter(), Counter())
    drawn: list[Preference] = []
    rng = random.Random(SEED)
    with closing(Repeats()) as repeats:
        for number, row in enumerate(_rows(path, ledger)):
            _look(row, ledger, lengths, repeats, asked)
            if len(drawn) < sample:
                drawn.append(clipped(row))
            elif (place := rng.randrange(number + 1)) < sample:
                drawn[place] = clipped(row)
        again = {"pairs": repeats.repeated, "opposite": repeats.opposite, "noise": _of_repeats(repeats)}
    rows = lengths.totals["rows"]
    note = f"of {rows:,} rows a sample of {len(drawn):,}" if rows > len(drawn) else None
    if asked is None:
        ledger.unmade("contamination", "no --eval file was given")
    languages = look_at_sample(drawn, ledger, note)
    return {
        "rows": rows,
        "sample": len(drawn),
        "length_bias": _length_bias(ledger, lengths),
        "length_ratio_median": _median(lengths.ratios),
        "label_noise": label_noise(drawn, ledger, lengths.totals, note),
        "repeats": again,
        "languages": languages,
        "eval_prompts": None if asked is None else asked.prompts,
    }


def _rows(path: Path, ledger: Ledger) -> Iterator[Preference]:
    seen: Mapping[str, Any] | None = None
    found = False
    for id, row in chain.from_iterable(map(read, _places(path))):
        ledger.look("unreadable")
        if seen is None and isinstance(row, dict):
            seen = row
        pair = None if isinstance(row, BadRecord) else preference_of(row, id)
        if pair is None:
            why = row.detail if isinstance(row, BadRecord) else f"columns {', '.join(map(str, row))}"
            ledger.found("unreadable", id, quote(why))
        else:
            found = True
            yield pair
    if not found:
        raise none_fits(path, seen, WANTED)


def _places(path: Path) -> list[Path]:
    """What to read: of a run, or of the dataset of one, the preference parts."""
    folder = path / "dataset" if is_run(path) else path
    if is_run(path) and not folder.is_dir():
        raise ConfigError(f"{path}: the run has no dataset yet; let it go on, then audit it")
    parts = sorted(part for part in folder.glob("preference*") if part.is_dir()) if folder.is_dir() else []
    return parts or [folder]


def _look(
    row: Preference, ledger: Ledger, lengths: _Lengths, repeats: Repeats, asked: EvalPrompts | None
) -> None:
    ledger.look(*EVERY)
    lengths.totals["rows"] += 1
    copy, contradicts = repeats.add(row)
    if copy:
        ledger.found("duplicates", row.id, shown(text_of(row.chosen)))
    if contradicts:
        ledger.found("contradictory", row.id, shown(text_of(row.chosen)))
    if where := turns.empty_turn(row):
        ledger.found("empty_turns", row.id, where)
    if wrong := turns.role_order(row):
        ledger.found("role_order", row.id, quote(wrong)[1:-1])
    if token := turns.template_token(row):
        name, text, at = token
        ledger.found("template_tokens", row.id, f"{quote(name)[1:-1]} in {shown(text, at)}")
    if secret := next((value for text in texts_of(row) for value in private.secrets_in(text)), None):
        ledger.found("secrets", row.id, f"{secret.kind}: {private.masked(secret.text)}")
    if asked is not None:
        ledger.look("contamination")
        if found := asked.asked_in(row):
            ledger.found("contamination", row.id, f"{found[0]}: {shown(found[1])}")
    if row.rejected is not None:
        _look_at_sides(text_of(row.chosen), text_of(row.rejected), row, ledger, lengths)


def _look_at_sides(chosen: str, rejected: str, row: Preference, ledger: Ledger, lengths: _Lengths) -> None:
    ledger.look("identical")
    totals = lengths.totals
    totals["pairs"] += 1
    totals["longer"] += len(chosen) > len(rejected)
    totals["equal"] += len(chosen) == len(rejected)
    lengths.ratios[round(50 * log((len(chosen) + 1) / (len(rejected) + 1)))] += 1  # right to 1 %
    if row.p is not None:
        totals["with p"] += 1
        totals["doubt"] += round(1e9 * (1 - row.p))
    if chosen.split() == rejected.split():
        ledger.found("identical", row.id, shown(chosen))


def _length_bias(ledger: Ledger, lengths: _Lengths) -> dict[str, Any]:
    totals = lengths.totals
    longer = rate(totals["longer"] + totals["equal"] / 2, totals["pairs"])
    ledger.estimated("length_bias", totals["pairs"], longer.rate, (longer.low, longer.high), None)
    return asdict(longer)


def _of_repeats(repeats: Repeats) -> float | None:
    """The error rate at which independent labels of one pair would differ as often as repeated pairs do."""
    differ = repeats.opposite / repeats.repeated if repeats.repeated else 0.0
    if repeats.repeated < 30 or differ >= 0.5:
        return None
    return (1 - sqrt(1 - 2 * differ)) / 2


def _median(ratios: Counter[int]) -> float | None:
    left = ratios.total() / 2
    for step in sorted(ratios):
        left -= ratios[step]
        if left <= 0:
            return round(exp(step / 50), 2)
    return None
