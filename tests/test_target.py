"""How many prompts a target draws, and where its dataset ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.config_file import validate_config
from cai.errors import ConfigError
from cai.rows import Drop, Message, Prompt
from cai.target import SLICE, forget_shards, in_flight, most_pairs, next_wave, slices
from tests.flows.small import small_config

NOWHERE = "http://127.0.0.1:9/v1"


def drawn(target: int, most: int, least: int, yields: Sequence[int]) -> list[tuple[int, int, int]]:
    """The waves over prompts that give so many pairs each: slices, and accepted and prompts before."""
    accepted = prompts = 0
    waves = []
    while accepted < target and prompts < len(yields):
        size = next_wave(target - accepted, accepted, prompts, most, least)
        waves.append((size, accepted, prompts))
        wave = yields[prompts : prompts + size * SLICE]
        accepted, prompts = accepted + sum(wave), prompts + len(wave)
    return waves


@given(
    st.integers(1, 3000),
    st.integers(1, 4),
    st.integers(1, 8),
    st.lists(st.integers(0, 4), max_size=50),
    st.data(),
)
def test_waves_reach_the_target_and_stop(
    target: int, most: int, least: int, pattern: list[int], data: st.DataObject
) -> None:
    """No wave is drawn once there are enough, none is empty, and all prompts are used before any is given up."""
    count = data.draw(st.integers(0, 6000))
    given_ = [min(pattern[i % len(pattern)], most) if pattern else 0 for i in range(count)]
    waves = drawn(target, most, least, given_)
    assert all(size >= 1 for size, _, _ in waves)
    assert all(before < target for _, before, _ in waves)
    prompts = min(count, sum(size for size, _, _ in waves) * SLICE)
    assert sum(given_[:prompts]) >= target or prompts == count
    for size, accepted, before in waves:  # what is certainly needed, or no more than is in flight
        certain = math.ceil((target - accepted) / most / SLICE)
        assert size >= min(certain, least) and (size >= certain or before)
        if size > max(least, certain):
            rate = accepted / most / before
            assert size * SLICE * rate * most <= target - accepted  # at the yield so far, still not enough


@given(st.integers(1, 500), st.integers(1, 8))
def test_a_full_yield_draws_no_slice_too_many(target: int, most: int) -> None:
    """Where every prompt gives all its pairs, the first wave is enough."""
    assert [size for size, _, _ in drawn(target, most, 1, [most] * 40_000)] == [
        math.ceil(target / most / SLICE)
    ]


def prompt(number: int) -> Prompt:
    return Prompt(id=f"p{number}", messages=(Message(role="user", content="Hi."),), source="s")


@given(st.lists(st.booleans(), max_size=400))
def test_slices_are_64_prompts_in_order(kinds: list[bool]) -> None:
    """Nothing is lost or moved; every slice but the last has 64 prompts, and begins with one from the second on."""
    rows: list[Prompt | Drop] = [
        prompt(n) if kind else Drop(id=f"d{n}", stage="prompts", reason="bad_json")
        for n, kind in enumerate(kinds)
    ]
    found = list(slices(rows))
    assert [row for piece in found for row in piece] == rows
    counts = [sum(isinstance(row, Prompt) for row in piece) for piece in found]
    assert all(count == SLICE for count in counts[:-1]) and all(count <= SLICE for count in counts)
    assert all(isinstance(piece[0], Prompt) for piece in found[1:])


def config(folder: Path, **changes: Any) -> Any:
    return small_config(folder, NOWHERE) | changes


def test_the_most_pairs_of_a_prompt(tmp_path: Path) -> None:
    """Two of three samples, and a reply with its revision."""
    for n, sources, most in (
        (2, ["samples", "revision"], 2), (3, ["samples"], 3), (4, ["samples", "revision"], 7), (1, ["revision"], 1),
    ):  # fmt: skip
        made = validate_config(
            config(tmp_path, policy={"model": "toy", "n": n}, pairs={"sources": sources, "target": 5}), "test"
        )
        assert most_pairs(made) == most
        assert in_flight(made) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": "paper", "sft": {}, "dpo": {}, "pairs": {"target": 5}}, "pairs.target: recipe 'paper'"),
        (
            {"policy": {"model": "toy", "n": 1}, "pairs": {"target": 5, "sources": ["samples"]}},
            "set policy.n to 2",
        ),
        ({"pairs": {"target": 0}}, "pairs.target"),
    ],
)
def test_targets_that_cannot_be(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Refused by name, with the reason."""
    with pytest.raises(ConfigError) as error:
        validate_config(config(tmp_path, **changes), "test")
    assert message in str(error.value)


def test_forgotten_shards_leave_their_journals(tmp_path: Path) -> None:
    """What was published for them goes, shard 0 never does."""
    for stage in ("generate", "held-out", "qualify-x"):
        (tmp_path / stage).mkdir()
        for number in range(1 if stage != "generate" else 4):
            for kind, end in (("manifest", "json"), ("rows", "jsonl"), ("drops", "jsonl")):
                (tmp_path / stage / f"{kind}-{number:05d}.{end}").touch()
    (tmp_path / "journal" / "generate").mkdir(parents=True)
    journal = tmp_path / "journal" / "generate" / "00003.jsonl"
    journal.touch()
    forget_shards(tmp_path, 2)
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*-0*.json*"))
    assert [name for name in left if "manifest" in name] == [
        "generate/manifest-00000.json", "generate/manifest-00001.json", "held-out/manifest-00000.json",
        "qualify-x/manifest-00000.json",
    ]  # fmt: skip
    assert len(left) == 12 and journal.exists()
