"""The dear checks of a dataset, on a sample of its rows: near copies, language, personal data, label noise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from cai.audit import noise, private
from cai.audit.findings import QUOTE, Ledger, quote
from cai.audit.pairs import Preference, Turn, text_of
from cai.audit.repeats import near_copies

KEPT = 8_000  # characters of each text that the sample keeps
LEAST = 20  # letters, below which a text tells no language
CERTAIN = 0.9  # probability of a language from which on it counts as known


def look_at_sample(drawn: Sequence[Preference], ledger: Ledger, note: str | None) -> dict[str, int]:
    """The checks on the sample; returns how many sides are in which language."""
    for check in ("near_duplicates", "pii", "language"):
        if note:
            ledger.note(check, note)
    ledger.look("near_duplicates", "pii", n=len(drawn))
    for id, earlier, alike in near_copies(drawn):
        ledger.found("near_duplicates", id, f"{alike:.0%} like row {quote(earlier)[1:-1]}")
    for row in drawn:
        kinds = {value.kind: value for text in texts_of(row) for value in private.personal_in(text)}
        if kinds:
            told = (f"{kind}: {private.masked(value.text)}" for kind, value in sorted(kinds.items()))
            ledger.found("pii", row.id, "; ".join(told))
    return _languages(drawn, ledger)


def _languages(drawn: Sequence[Preference], ledger: Ledger) -> dict[str, int]:
    identify = _identifier()
    counts: Counter[str] = Counter()
    found: list[tuple[str, str, str]] = []
    for row in drawn:
        for text in (text_of(row.chosen), text_of(row.rejected or ())):
            if sum(map(str.isalpha, text)) < LEAST:
                continue
            language, p = identify(text[:KEPT])
            if p >= CERTAIN:
                counts[language] += 1
                found.append((row.id, language, text[:QUOTE]))
    ledger.look("language", n=len(found))
    common = max(counts, key=lambda name: counts[name], default="")
    for id, language, text in found:
        if language != common:
            ledger.found("language", id, f"{language}, most are {common}: {shown(text)}")
    return dict(counts.most_common())


@cache
def _identifier() -> Callable[[str], tuple[str, float]]:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    found: Callable[[str], tuple[str, float]] = LanguageIdentifier.from_model_file(
        MODEL_FILE, norm_probs=True
    ).classify
    return found


def label_noise(
    drawn: Sequence[Preference], ledger: Ledger, totals: Mapping[str, int], note: str | None
) -> dict[str, Any]:
    """The estimate by its best source, and the rows that the classifier suspects."""
    learned = noise.by_classifier(drawn)
    for row, sure in learned.suspects:
        text = shown(text_of(row.chosen))
        ledger.listed(
            "label_noise", row.id, f"the classifier prefers the other side with p {sure:.2f}; chosen: {text}"
        )
    with_p = totals["with p"]
    share, method, n, said = learned[:4]
    said += f"; {note}" if note else ""
    if with_p and with_p == totals["pairs"]:
        share, method, n = totals["doubt"] / 1e9 / with_p, "p", with_p
        said = f"mean of 1 − p, as good as the calibration; rows listed by {said}"
    ledger.estimated("label_noise", n, share, (None, None), said)
    return {"share": share, "method": method, "n": n, "note": said, "suspects": len(learned.suspects)}


def shown(text: str, at: int = 0) -> str:
    """A quote in which secrets and personal data are masked."""
    start = max(0, at - QUOTE)
    piece = private.redacted(text[start : at + 3 * QUOTE], personal=True)
    return quote(piece if not start else f"…{piece}", 0 if not start else QUOTE)


def texts_of(row: Preference) -> Iterator[str]:
    """The texts of all turns of a row."""
    return (turn.content for turn in (*row.prompt, *row.chosen, *(row.rejected or ())))


def clipped(row: Preference) -> Preference:
    """A row as the sample keeps it: no text longer than KEPT, and no lone surrogate, which libraries do not take."""

    def cut(side: tuple[Turn, ...]) -> tuple[Turn, ...]:
        return tuple(
            turn._replace(content=turn.content[:KEPT].encode("utf-8", "replace").decode()) for turn in side
        )

    rejected = None if row.rejected is None else cut(row.rejected)
    return row._replace(prompt=cut(row.prompt), chosen=cut(row.chosen), rejected=rejected)
