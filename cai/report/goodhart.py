"""How the replies of each evaluated model read, in a table beside its rates, with what speaks for Goodhart's law."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from cai.config.training import evaluated
from cai.report.tables import plain

TITLES = ("words", "against base", "distinct-1/2", "self-BLEU", "same opening", "copies")


def reply_rows(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Each model and its cells under TITLES; evaluations of before there were these figures have none.

    Mean and median length, its mean change on the same prompts with the 95 % interval, variety, and how many replies
    share the most common opening or have a copy. How many were cut at max_tokens stands among the stages.
    """
    for name, found in _replies(evaluation):
        mean, median = _number(found["mean_words"], ".1f"), _number(found["median_words"], "g")
        distinct = "/".join(_number(found[key], ".2f") for key in ("distinct_1", "distinct_2"))
        shares = [_number(found[key], ".1%") for key in ("opening_share", "duplicates")]
        cells = [f"{mean}/{median}", _change(found["longer"]), distinct, _number(found["self_bleu"], ".2f")]
        yield name, cells + shares


def warning_lines(evaluation: Mapping[str, Any]) -> list[str]:
    """What to look into before a trained model is believed to be better, a line each."""
    warned = [(name, found["warnings"]) for name, found in _replies(evaluation)]
    warned += [(name, found["warnings"]) for name, found in _moved(evaluation)]
    return [f"{name}: {warning}" for name, warnings in warned for warning in warnings]


def moved_lines(evaluation: Mapping[str, Any]) -> list[str]:
    """How far each model is from the base, and its entropy, or why nobody knows; none where it was not asked for."""
    lines: dict[str, list[str]] = {}
    for name, found in _moved(evaluation):
        said = f"not measured: {found['why_not']}" if found["why_not"] else _distance(found)
        lines.setdefault(said, []).append(name)
    return [f"{', '.join(names)}: {said}" for said, names in lines.items()]


def print_replies(evaluation: Mapping[str, Any], console: Console) -> None:
    """The table and the warnings."""
    rows = list(reply_rows(evaluation))
    if not rows:
        return
    table = Table(
        title="how the replies read; words: mean/median and change [95 % interval]", title_justify="left"
    )
    table.add_column("model", no_wrap=True)
    for title in TITLES:
        table.add_column(title.replace("-", "-\n").replace(" ", "\n"), justify="right")
    for name, cells in rows:
        table.add_row(name, *cells)
    console.print(table)
    for line in moved_lines(evaluation):
        console.print(plain(f"moved    {line}"), soft_wrap=True, highlight=False)
    for line in warning_lines(evaluation):
        console.print(plain(f"warning  {line}"), soft_wrap=True, highlight=False)


def _replies(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in evaluated(evaluation):
        if "replies" in evaluation[name]:
            yield name, evaluation[name]["replies"]


def _moved(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in evaluated(evaluation):
        if "divergence" in evaluation[name]:
            yield name, evaluation[name]["divergence"]


def _distance(found: Mapping[str, Any]) -> str:
    """The figures of a model in words."""
    entropy = f"entropy {_nats(found['entropy'])} nats a token, of {found['entropy']['n']:,} replies"
    if found["kl_token"] is None:
        return entropy
    token, reply = _nats(found["kl_token"]), _nats(found["kl_reply"])
    return f"KL divergence from the base {token} nats a token, {reply} a reply; {entropy}"


def _nats(mean: Mapping[str, Any]) -> str:
    if mean["mean"] is None:
        return "–"
    interval = "" if mean["low"] is None else f" [{mean['low']:.3g}, {mean['high']:.3g}]"
    return f"{mean['mean']:.3g}{interval}"


def _change(longer: Mapping[str, Any] | None) -> str:
    if longer is None or longer["difference"] is None:
        return "–"
    interval = "" if longer["low"] is None else f" [{longer['low']:.1f}, {longer['high']:.1f}]"
    return f"{longer['difference']:+.1f}{interval}"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
