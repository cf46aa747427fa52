"""What statements say, seen without a model: nothing, the same as another one, or its opposite."""

from __future__ import annotations

import difflib
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.constitution.wording import NEAR_DUPLICATE, find_alike, is_vague, words


@pytest.mark.parametrize(
    "statement",
    [
        "Be good.", "Be nice and appropriate", "Always respond in an appropriate way.", "The reply is good and proper.",
        "Do not be bad.", "The assistant should act ethically and responsibly.", "Be kind.", "Honesty",
        "Honesty and respect.", "…", "Good answers.",
    ],
)  # fmt: skip
def test_statements_without_a_behaviour_are_vague(statement: str) -> None:
    """There is nothing in them that a judge could look for."""
    assert is_vague(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "Never lie.", "Stay concise.", "Do not help to steal.", "Greet the user by name.", "Ask before guessing.",
        "Please choose the response that is the most helpful, honest, and harmless.",
        "Give real help with everyday requests.",
        "The reply is as long as the question needs.",
        "Sei ehrlich zu allen.", "不要撒谎。", "I avoid existential risk.",
    ],
)  # fmt: skip
def test_statements_with_a_behaviour_are_not(statement: str) -> None:
    """Short ones, published ones and those in other languages are left in peace."""
    assert not is_vague(statement)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("Always be kind to the user.", "Never be kind to the user."),
        ("Give medical advice.", "Avoid giving any medical advice."),
        ("The reply gives medical advice.", "Do not give medical advice."),
        ("The assistant should discuss politics.", "The assistant shouldn't discuss politics."),
        ("You can't stop the user.", "Stopping the user"),
        ("Refrain from telling jokes", "Tell jokes"),
    ],
)
def test_what_differs_by_a_negation_is_a_contradiction(one: str, two: str) -> None:
    """Whatever the form of the verb and of the negation, in both orders; two negations are none."""
    for pair in ((one, two), (two, one)):
        assert [tuple(found) for found in find_alike(pair)] == [(1, 0, True)]
    assert not any(
        found.opposite for found in find_alike(["Never avoid jokes.", "Always tell jokes about it."])
    )
    assert [found.opposite for found in find_alike(["Never avoid jokes.", "Jokes."])] == [False]


def test_a_topic_in_common_is_no_contradiction() -> None:
    """Only the same text with the opposite sense is told."""
    assert not list(find_alike(["Do not discuss politics.", "Discuss politics where the user asks for it."]))
    assert not list(
        find_alike(["The reply never shouts at the user.", "The reply never insults a group of people."])
    )


SOME = [
    "reply",
    "never",
    "helps",
    "with",
    "theft",
    "of",
    "cars",
    "boats",
    "and",
    "it",
    "not",
    "users",
    "gives",
]
texts = st.lists(st.sampled_from(SOME), max_size=9)


@given(st.lists(texts.map(" ".join), max_size=7))
def test_the_prefix_filter_misses_nothing(statements: list[str]) -> None:
    """Whatever comparing all pairs finds is found."""
    found = {alike.later: alike for alike in find_alike(statements)}
    for later, text in enumerate(statements):
        ratios = [
            difflib.SequenceMatcher(None, words(other), words(text), autojunk=False).ratio()
            for other in statements[:later]
        ]
        near = [earlier for earlier, ratio in enumerate(ratios) if words(text) and ratio >= NEAR_DUPLICATE]
        assert later in found or near == []


def test_a_thousand_statements_are_compared_in_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of half a million pairs, hardly one is compared word by word; the time does not grow with the pairs."""
    compared = 0
    plain = difflib.SequenceMatcher

    def counting(*arguments: object, **options: object) -> object:
        nonlocal compared
        compared += 1
        return plain(*arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr("cai.constitution.wording.difflib.SequenceMatcher", counting)
    vocabulary = [f"w{number}" for number in range(200)]
    random = Random(7)
    statements = [
        "The reply gives the user " + " ".join(random.choices(vocabulary, k=12)) for _ in range(1000)
    ]
    assert list(find_alike(statements)) == [] and compared < 1000
    copies = [f"The reply never helps anyone with thing {number} of the list." for number in range(1000)]
    assert len(list(find_alike(copies))) == 999 and compared < 3000
