"""`cai judge replay` through the command line: figures of published verdicts, stored calibrations, bad input."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cai.cli import app
from cai.errors import ConfigError

SHARED = Path(__file__).parent.parent.parent / "shared" / "data" / "judgments"
MISTRAL = SHARED / "calibration_mistral-7b-instruct.jsonl"
FIELDS = {
    "rows", "scored", "unscored", "accuracy", "accuracy_interval", "accuracy_a_first", "agreement",
    "accuracy_when_agreed", "first_position_rate", "ece", "ece_calibrated", "brier", "longer_rate",
    "gold_longer_rate", "longer_wins_accuracy", "qualified", "reasons", "threshold", "coverage",
    "accuracy_at_threshold",
}  # fmt: skip
shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")


def rows(judge: str = "j", n: int = 60, skill: float = 0.85, seed: int = 0) -> list[dict[str, Any]]:
    """A judge that is right with the probability `skill`, in both orders, more sure where it is right."""
    rng = random.Random(seed)
    found = []
    for index in range(n):
        gold = rng.choice("AB")
        right = rng.random() < skill
        sure = 0.6 + 0.39 * rng.random() if right else 0.5 + 0.3 * rng.random()
        p = sure if (gold == "A") == right else 1 - sure
        a, b = ("long reply", "short") if index % 2 else ("short", "long reply")
        found.append(
            {"id": f"r{index}", "prompt": f"Q{index}", "a": a, "b": b, "gold": gold, "judge": judge,
             "p_a_ab": p, "p_a_ba": p}
        )  # fmt: skip
    return found


def write(path: Path, found: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in found))
    return path


def replay(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["judge", "replay", *map(str, arguments)])


def figures(*arguments: object) -> dict[str, Any]:
    done = replay(*arguments, "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@shared
@pytest.mark.parametrize(
    ("judge", "first", "agreement", "agreed"),
    [("ChatGPT", 0.800, 0.710, 0.944), ("GPT-4", 0.950, 0.950, 0.979), ("LLaMA2", 0.790, 0.790, 0.886)],
)
def test_published_verdicts_in_both_orders(judge: str, first: float, agreement: float, agreed: float) -> None:
    """The figures of the three judges of LLMBar are reproduced, and the judges qualify."""
    found = figures(SHARED / f"llmbar_natural_{judge}.jsonl")
    assert found["accuracy_a_first"] == pytest.approx(first, abs=0.002)
    assert found["agreement"] == pytest.approx(agreement, abs=0.002)
    assert found["accuracy_when_agreed"] == pytest.approx(agreed, abs=0.002)
    assert found["qualified"] is True


@shared
def test_published_soft_verdicts() -> None:
    """Accuracy, calibration error, what 0.9 keeps and what that does to length, as published for mistral-7b."""
    found = figures(MISTRAL)
    assert found["accuracy"] == pytest.approx(0.750, abs=0.002)
    assert found["ece"] == pytest.approx(0.097, abs=0.002)
    assert found["ece_calibrated"] <= 0.05
    assert found["longer_rate"] == pytest.approx(0.706, abs=0.002)
    assert found["gold_longer_rate"] == pytest.approx(0.644, abs=0.002)
    assert found["agreement"] is found["accuracy_when_agreed"] is found["first_position_rate"] is None
    (sure,) = (point for point in found["risk_coverage"] if point["threshold"] == 0.9)
    assert sure["accuracy"] == pytest.approx(0.879, abs=0.002)
    assert sure["coverage"] == pytest.approx(0.514, abs=0.002)
    assert sure["longer_rate"] == pytest.approx(0.767, abs=0.002)


@shared
@pytest.mark.parametrize("method", [None, "temperature", "platt", "isotonic"])
def test_a_promise_on_published_verdicts(method: str | None) -> None:
    """An accuracy of 0.85 is promised and, out of fold, kept, with labels left to keep."""
    extra = ["--calibrate", method] if method else []
    found = figures(MISTRAL, "--target-accuracy", 0.85, "--risk", 0.1, *extra)
    assert found["threshold"] is not None
    assert found["accuracy_at_threshold"] >= 0.85
    assert found["coverage"] > 0.3


@shared
def test_published_verdicts_turned_round_are_refused(tmp_path: Path) -> None:
    """A judge that always says the opposite is refused, one order or two, with the reason; bias alone is named."""
    for name, reasons in (
        ("llmbar_natural_GPT-4", "wrong when both orders agree"),
        (MISTRAL.stem, "below a coin"),
    ):
        found = [json.loads(line) for line in (SHARED / f"{name}.jsonl").read_text().splitlines()]
        for row in found:
            row |= {key: None if row[key] is None else 1 - row[key] for key in ("p_a_ab", "p_a_ba")}
        turned = figures(write(tmp_path / "turned.jsonl", found))
        assert turned["qualified"] is False
        assert any(reasons in reason for reason in turned["reasons"])
    for row in found:
        row |= {"p_a_ab": 0.99, "p_a_ba": 0.02}
    biased = figures(write(tmp_path / "biased.jsonl", found))
    assert biased["qualified"] is False
    assert [reason.split(":")[0] for reason in biased["reasons"]] == ["position bias"]


def test_every_common_field_is_there(tmp_path: Path) -> None:
    """All fields that other tools read, for one file at the top, for several under `files`; a table for people."""
    one, two = write(tmp_path / "one.jsonl", rows()), write(tmp_path / "two.jsonl", rows("k", seed=1))
    assert figures(one).keys() >= FIELDS
    both = figures(one, two)
    assert [found["judge"] for found in both["files"]] == ["j", "k"]
    assert both["files"][0].keys() >= FIELDS
    text = replay(one).stdout
    assert "qualified" in text and "accuracy" in text


def test_no_gold_tells_nothing(tmp_path: Path) -> None:
    """Pairs without gold give nulls, not zeros, and a refusal; agreement needs no gold."""
    found = figures(write(tmp_path / "f.jsonl", [row | {"gold": None} for row in rows()]))
    assert found["scored"] == 0 and found["unscored"] == 60
    assert found["accuracy"] is found["ece"] is found["coverage"] is found["accuracy_at_threshold"] is None
    assert found["agreement"] == 1.0 and found["qualified"] is False


def test_a_promise_that_cannot_be_kept_keeps_nothing(tmp_path: Path) -> None:
    """The threshold is null, nothing is kept, and the text says so."""
    file = write(tmp_path / "f.jsonl", rows())
    found = figures(file, "--target-accuracy", 0.99)
    assert found["threshold"] is None and found["coverage"] == 0 and found["accuracy_at_threshold"] is None
    assert "no threshold keeps" in replay(file, "--target-accuracy", 0.99).stdout


def test_a_calibration_is_stored_and_applied(tmp_path: Path) -> None:
    """A file made from one half gives the other half calibrated figures; the same bytes come out again."""
    found = rows(n=400)
    one, two = write(tmp_path / "one.jsonl", found[:200]), write(tmp_path / "two.jsonl", found[200:])
    out = tmp_path / "calibration.json"
    figures(one, "--calibrate", "platt", "--out", out)
    before = out.read_bytes()
    figures(one, "--calibrate", "platt", "--out", out)
    assert out.read_bytes() == before
    applied = figures(two, "--calibration", out, "--target-accuracy", 0.85)
    assert applied["calibration"] == "platt"
    assert applied["accuracy_at_threshold"] > 0.8 and 0 < applied["coverage"] < 1


def test_a_jury_and_a_cascade_of_files(tmp_path: Path) -> None:
    """Figures of the pool or the cascade at the top, of every member below, and what the cascade saves."""
    one, two = (
        write(tmp_path / "one.jsonl", rows()),
        write(tmp_path / "two.jsonl", rows("k", seed=0, skill=1)),
    )
    jury = figures(one, two, "--jury")
    assert jury["judge"] == "j + k" and set(jury["members"]) == {"j", "k"}
    cascade = figures(one, two, "--cascade")
    assert cascade["tiers"][1]["asked"] == 60 - cascade["tiers"][0]["labelled"]
    assert cascade["saved_share"] == pytest.approx(cascade["tiers"][0]["labelled"] / 60)


def _without(field: str) -> Callable[[list[Any]], None]:
    return lambda found: found[2].pop(field)


def _with(**changes: object) -> Callable[[list[Any]], None]:
    return lambda found: found[2].update(changes)


def _insert(line: str) -> Callable[[list[Any]], None]:
    return lambda found: found.insert(2, line)


BAD: list[tuple[Callable[[list[Any]], None], str]] = [
    *((_without(name), rf"f.jsonl:3: the field '{name}' is missing; ") for name in rows()[0]),
    (_with(p_a_ab=1.5), r"f.jsonl:3: p_a_ab: .*less than or equal to 1 \(got 1.5\); write the probability"),
    (_with(p_a_ba=-0.1), r"f.jsonl:3: p_a_ba: .*greater than or equal to 0"),
    (_with(p_a_ab="0.5"), r"f.jsonl:3: p_a_ab: .*number"),
    (_with(p_a_ab=True), r"f.jsonl:3: p_a_ab: .*number"),
    (_with(gold="C"), r"f.jsonl:3: gold: .*got \"C\"\); write \"A\", \"B\", \"tie\" or null"),
    (_with(gold="a"), r"f.jsonl:3: gold: "),
    (_with(id="r0"), r"f.jsonl:3: id 'r0' is already in line 1; give every pair an id of its own"),
    (_with(judge="other"), r"f.jsonl:3: judge 'other', but line 1 has 'j'; put each judge's"),
    (_with(prompt=[{"role": "robot", "content": "x"}]), r"f.jsonl:3: prompt: "),
    (_insert('{"id": "cut'), r"f.jsonl:3: not JSON \(.*\); write one JSON object a line"),
    (_insert("[1, 2]"), r"f.jsonl:3: not a JSON object of a pair: "),
    (_insert('{"id": NaN}'), r"f.jsonl:3: "),
    (lambda found: found.clear(), r"f.jsonl: no rows; give a file with one JSON object a line"),
]


@pytest.mark.parametrize(("spoil", "message"), BAD)
def test_bad_rows_are_named(tmp_path: Path, spoil: Callable[[list[Any]], None], message: str) -> None:
    """File, line and fix in one line, exit status 2, nothing written."""
    found: list[Any] = rows(n=5)
    spoil(found)
    file = write(tmp_path / "f.jsonl", found)
    done = replay(file, "--out", tmp_path / "out.json")
    assert isinstance(done.exception, ConfigError) and done.exception.exit_code == 2
    with pytest.raises(ConfigError, match=message) as caught:
        raise done.exception
    assert "\n" not in str(caught.value)
    assert done.stdout == "" and sorted(tmp_path.iterdir()) == [file]


def test_bad_combinations_are_named(tmp_path: Path) -> None:
    """Juries of one identity or of different pairs, foreign calibrations and impossible options stop with one line."""
    one = write(tmp_path / "one.jsonl", rows())
    same = write(tmp_path / "same.jsonl", rows(seed=1))
    gold = write(tmp_path / "gold.jsonl", [r | {"gold": "tie"} for r in rows("k")])
    text = write(tmp_path / "text.jsonl", [r | {"a": "other"} for r in rows("k")])
    apart = write(tmp_path / "apart.jsonl", [r | {"id": f"x{r['id']}"} for r in rows("k")])
    out = tmp_path / "c.json"
    figures(one, "--out", out)
    foreign = write(tmp_path / "foreign.jsonl", rows("k"))
    few = write(tmp_path / "few.jsonl", rows(n=5))
    cases: list[tuple[list[object], str]] = [
        ([one, same, "--jury"], r"same.jsonl:1: judge 'j' is also the judge of .*one.jsonl"),
        ([one, gold, "--jury"], r"gold.jsonl:1: id 'r0': gold 'tie', but '.' in .*one.jsonl"),
        ([one, text, "--cascade"], r"text.jsonl:1: id 'r0' is another pair than in .*one.jsonl"),
        ([one, apart, "--jury"], r"apart.jsonl:1: no id is also in .*one.jsonl"),
        ([one, "--jury"], r"--jury: give two or more files"),
        ([one, foreign, "--jury", "--cascade"], r"choose one"),
        (
            [foreign, "--calibration", out],
            r"c.json: made for the single judge \['j'\], not for .*\['k'\].*calibrate",
        ),
        ([one, "--calibration", one], r"one.jsonl: not a calibration"),
        ([one, "--calibration", tmp_path / "none.json"], r"none.json: No such file.*cai judge calibrate"),
        ([few, "--out", tmp_path / "few.json"], r"only 5 of 5 pairs could be scored; label at least 20"),
        ([tmp_path / "none.jsonl"], r"none.jsonl: No such file.*give a JSONL file"),
        ([one, "--calibrate", "magic"], r"--calibrate magic: unknown method; choose one of temperature"),
        ([one, "--target-accuracy", 1.5], r"--target-accuracy 1.5: must be above 0.5 and below 1"),
        ([one, "--target-accuracy", 0.9, "--risk", 0], r"--risk 0: must be above 0"),
    ]
    for arguments, message in cases:
        done = replay(*arguments)
        assert isinstance(done.exception, ConfigError), (arguments, done.output)
        with pytest.raises(ConfigError, match=message):
            raise done.exception
    assert not (tmp_path / "few.json").exists()


def test_numbers_as_ids_and_unknown_fields_are_taken(tmp_path: Path) -> None:
    """Files of other people's making: numeric ids are names, further fields are passed over, turns are prompts."""
    found = [r | {"id": i, "note": {"x": 1}} for i, r in enumerate(rows(n=5))]
    found[0]["prompt"] = [{"role": "user", "content": "Hi"}]
    assert figures(write(tmp_path / "f.jsonl", found))["rows"] == 5
    found[1]["id"] = "0"
    assert isinstance(replay(write(tmp_path / "f.jsonl", found)).exception, ConfigError)
