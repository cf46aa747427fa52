"""The comparison of losses: its noise, its intervals and tables, and that what is measured is not made again."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks import losses
from benchmarks.losses import RESULT, ROOT, run_cell
from benchmarks.losses_cells import (
    DOUBT,
    LOSSES,
    MORE,
    PAIRS,
    SETTINGS,
    Cell,
    drawn,
    flipped,
    rows_of,
    section,
)
from benchmarks.losses_kept import write_result
from benchmarks.losses_noise import label, relabel
from benchmarks.losses_tables import DOCS, render, with_tables
from benchmarks.losses_world import held_out_pairs, winner
from cai.train.refuse import refuse

MANY = 20_000
HARMFUL = [{"role": "user", "content": "How do I play a cruel trick on the sheep?"}]
BAD, GOOD = (
    "Pull the tail of the sheep again and again.",
    "That would be cruel. Kind play is more fun for everyone.",
)


def pair(number: int, chosen: str = GOOD, rejected: str = BAD) -> dict[str, Any]:
    return {
        "id": f"p{number}", "prompt": HARMFUL, "p": 0.9, "margin": 2.2,
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished data run of twenty pairs, one of them labelled wrongly, and of one demonstration."""
    rows = [*(pair(number) for number in range(19)), pair(19, BAD, GOOD)]
    files = {"preference": rows, "sft": [{"prompt": HARMFUL, "completion": rows[0]["chosen"]}]}
    for part, written in files.items():
        path = tmp_path / "data" / "dataset" / part / "train.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in written))
    return tmp_path


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.3, 0.4])
@pytest.mark.parametrize("noise", ["symmetric", "instance"])
def test_a_labeller_is_wrong_at_its_rate_and_calibrated(noise: Any, rate: float) -> None:
    """Of the labels that it says are right with about some probability, so many are."""
    found = [label(noise, rate, 0, str(number)) for number in range(MANY)]
    assert sum(one.flipped for one in found) / MANY == pytest.approx(rate, abs=0.012)
    for low in (0.5, 0.6, 0.7, 0.8, 0.9):
        some = [one for one in found if low <= one.right < low + 0.1]
        if len(some) > 500:
            said, right = (sum(values) / len(some) for values in zip(
                *((one.right, not one.flipped) for one in some), strict=True
            ))  # fmt: skip
            assert right == pytest.approx(said, abs=4 * math.sqrt(0.25 / len(some)))


def test_only_one_labeller_knows_which_labels_are_doubtful() -> None:
    """The symmetric one says the same of all."""
    assert {label("symmetric", 0.3, 0, str(number)).right for number in range(50)} == {0.7}
    assert len({label("instance", 0.3, 0, str(number)).right for number in range(50)}) == 50


@pytest.mark.parametrize("noise", ["symmetric", "instance"])
def test_flips_are_the_seeds_and_stay(noise: Any) -> None:
    """The same for every method; at a higher rate, more of them; other ones for another seed."""
    flips = [
        {number for number in range(500) if label(noise, rate, seed, str(number)).flipped}
        for rate, seed in ((0.1, 0), (0.3, 0), (0.3, 1))
    ]
    assert flips[0] < flips[1] != flips[2]
    assert not label(noise, 0.0, 0, "x").flipped
    with pytest.raises(ValueError, match="one half"):
        label(noise, 0.5, 0, "x")


def test_a_flip_is_not_seen() -> None:
    """The rows are swapped, and p is what the labeller says of the label that it gave."""
    wrong = next(one for n in range(99) if (one := label("instance", 0.3, 0, str(n))).flipped)
    row = relabel(pair(0), wrong)
    assert (row["chosen"][0]["content"], row["rejected"][0]["content"]) == (BAD, GOOD)
    assert row["p"] == wrong.right >= 0.5
    assert row["margin"] == pytest.approx(math.log(wrong.right / (1 - wrong.right)))


def test_pairs_of_a_seed(folder: Path) -> None:
    """Drawn from those that are right by the exact rules; under noise the same ones, some of them swapped."""
    source = folder / "data" / "dataset" / "preference" / "train.jsonl"
    assert {row["id"] for row in drawn(source, 0)} == {f"p{number}" for number in range(19)}
    assert drawn(source, 0) == drawn(source, 0) != drawn(source, 1)
    cell = Cell(0, "soft", "instance", 0.4)
    rows = [json.loads(line) for line in rows_of(cell, folder).read_text().splitlines()]
    assert [row["id"] for row in rows] == [row["id"] for row in drawn(source, 0)]
    swapped = sum(row["chosen"][0]["content"] == BAD for row in rows)
    assert flipped(cell, rows_of(cell, folder)) == pytest.approx(swapped / 19)
    assert rows_of(cell._replace(method="robust"), folder).read_bytes() == rows_of(cell, folder).read_bytes()


def test_the_sections_are_what_they_are_called() -> None:
    """None is refused; robust and cDPO take the rate of the noise, soft labels each row's p."""
    for method in ("sft", *LOSSES, *MORE):
        refuse(Cell(0, method).kind, section(Cell(0, method)))
    noisy = section(Cell(0, "robust", "symmetric", 0.3))
    assert noisy.args["label_smoothing"] == 0.3
    assert section(Cell(0, "robust")).args["label_smoothing"] == DOUBT
    assert section(Cell(0, "soft")).model_dump()["soft_labels"] is True
    assert section(Cell(0, "cdpo")).model_dump()["soft_labels"] == 1 - DOUBT
    rates = {section(Cell(0, method)).args["learning_rate"] for method in (*LOSSES, *MORE)}
    assert len(rates) == 1


def test_held_out_pairs_have_one_better_reply() -> None:
    """By the rules and not by the order in which they stand."""
    pairs = held_out_pairs(SETTINGS["held_out_pairs"])
    assert len(pairs) == SETTINGS["held_out_pairs"]
    assert all(winner(messages, worse, better) == "B" for messages, better, worse in pairs)


def test_what_is_measured_is_not_made_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished cell is read back, until its rows are others."""

    class LaunchedError(Exception):
        pass

    def launch(*args: object, **options: object) -> None:
        raise LaunchedError

    monkeypatch.setattr("cai.train.launch.launch", launch)
    monkeypatch.setattr(losses, "BASE", ROOT / losses.BASE)
    cell = Cell(0, "orpo")
    with pytest.raises(LaunchedError):
        run_cell(folder, cell)
    digest = losses.planned(folder, cell)[1]
    kept = folder / "cells" / f"{cell.name}.json"
    kept.parent.mkdir()
    figures = {**cell._asdict(), "helpful": [1, 2], "digest": digest, "settings": SETTINGS}
    kept.write_text(json.dumps(figures))
    assert run_cell(folder, cell) == figures
    with (folder / "data" / "dataset" / "preference" / "train.jsonl").open("a") as file:
        file.write(json.dumps(pair(20)) + "\n")
    with pytest.raises(LaunchedError):
        run_cell(folder, cell)


def test_figures_of_other_settings_are_left_out(tmp_path: Path) -> None:
    """What is shown together was made alike."""
    (tmp_path / "cells").mkdir()
    for number, settings in enumerate((SETTINGS, SETTINGS | {"pairs": PAIRS + 1})):
        row = {**Cell(number, "sft")._asdict(), "helpful": [1, 2], "digest": "", "settings": settings}
        (tmp_path / "cells" / f"{number}.json").write_text(json.dumps(row))
    write_result(tmp_path / "result.json", tmp_path)
    (found,) = json.loads((tmp_path / "result.json").read_text())["cells"]
    assert found == {**Cell(0, "sft")._asdict(), "helpful": [1, 2]}


def cell(method: str, seed: int, harmless: int, helpful: int, **more: Any) -> dict[str, Any]:
    counts = {"harmless": [harmless, 100], "helpful": [helpful, 100], "overrefusal": [0, 100]}
    return {**Cell(seed, method)._asdict(), **counts, "words": 10.0, **more}


def test_the_table_of_losses() -> None:
    """Student's interval over seeds, differences seed by seed, and whether what is asked is met."""
    cells = [cell("sft", seed, harmless, 90) for seed, harmless in enumerate((50, 60, 70))]
    cells += [cell("sigmoid", seed, harmless, 88) for seed, harmless in enumerate((70, 81, 89))]
    cells += [cell("ipo", seed, harmless, 80) for seed, harmless in enumerate((70, 81, 89))]
    cells += [cell("kto", seed, harmless, 90) for seed, harmless in enumerate((50, 60, 80))]
    _, _, sft, *trained = render({"cells": cells})["losses"].splitlines()
    assert "| 60.0 [35.2, 84.8] | 90.0 [90.0, 90.0] |" in sft
    assert "| +20.0 [+17.5, +22.5] | -2.0 [-2.0, -2.0] | yes |" in trained[0]
    assert trained[1].endswith("| -10.0 [-10.0, -10.0] | no |")
    assert trained[2].endswith("| +3.3 [-11.0, +17.7] | +0.0 [+0.0, +0.0] | no |")


def test_the_table_of_noise() -> None:
    """Other losses against hard labels of the same noise, over the seeds that both have."""
    at = {"noise": "instance", "rate": 0.4}
    cells = [cell("sigmoid", 0, 90, 90)]
    cells += [cell("sigmoid", seed, 60, 90, **at) for seed in (0, 1, 2)]
    cells += [cell("soft", seed, 64 + seed, 90, prefers_better=0.75, **at) for seed in (0, 1)]
    rows = render({"cells": cells})["noise"].splitlines()[2:]
    assert rows[0].startswith("| none | 0 | DPO `sigmoid` | 1 | 90.0 |")
    assert rows[1].startswith("| instance | 40 | DPO `sigmoid` | 3 | 60.0 [60.0, 60.0] |")
    assert rows[2].startswith("| instance | 40 | soft labels (`soft_labels: true`) | 2 | 64.5 [58.1, 70.9] |")
    assert rows[2].endswith("| 75.0 [75.0, 75.0] | +4.5 [-1.9, +10.9] | – |")


def test_the_page_shows_the_committed_figures() -> None:
    """Its tables are what the program makes of benchmarks/results/losses.json, to the character."""
    text = (ROOT / DOCS).read_text(encoding="utf-8")
    assert with_tables(text, render(json.loads((ROOT / RESULT).read_text()))) == text
    with pytest.raises(ValueError, match="no <!-- gone -->"):
        with_tables(text, {"gone": ""})
