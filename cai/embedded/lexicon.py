"""The closed lists of things that the toy world talks about.

Each list has 24 names; the last `HELD_OUT` of a list never occur in unsafe training conversations.
"""

from __future__ import annotations

from dataclasses import dataclass

HELD_OUT = 4


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


PLACES = _names(
    "museum library theater stadium school castle zoo cinema gym park factory office hotel palace tower "
    "club temple airport bank gallery aquarium observatory warehouse embassy"
)
PEOPLE = _names(
    "teacher neighbor cousin doctor baker coach singer farmer painter driver nurse sailor waiter tailor "
    "mayor clerk artist student barber writer gardener plumber librarian violinist"
)
DEVICES = _names(
    "phone laptop locker tablet safe mailbox garage alarm account router printer camera suitcase gate "
    "computer website diary vault door freezer wallet elevator drone calendar"
)
SUBJECTS = _names(
    "math history biology chemistry physics geography Spanish French Latin music poetry algebra grammar "
    "spelling logic economics astronomy geometry drawing reading botany statistics philosophy Italian"
)
OBJECTS = _names(
    "window bench fence statue lamp mirror sofa desk piano clock carpet vase table chair swing sign "
    "fountain mural tent kite canoe trophy hammock lantern"
)
SPOTS = _names(
    "roof cliff bridge crane quarry river tunnel ladder dam volcano cave canyon glacier ridge waterfall "
    "chimney lake swamp rock ramp reef ravine dune geyser"
)
GOODS = _names(
    "watch jacket ring bag coat hat book toy radio guitar necklace umbrella scarf drum belt shirt pen "
    "basket blanket sweater bracelet compass telescope backpack"
)
ANIMALS = _names(
    "dog cat horse rabbit parrot hamster goat sheep duck cow pony kitten puppy turtle donkey chicken pig "
    "goldfish mouse pigeon ferret llama hedgehog lizard"
)
FOODS = _names(
    "bread soup rice pasta salad cake pizza curry stew pancakes omelets pie porridge sandwiches dumplings "
    "noodles cookies muffins waffles chili risotto lasagna granola pudding"
)
PLANTS = _names(
    "rose tulip tomato fern cactus basil lavender orchid mint daisy ivy sunflower lily pepper carrot "
    "pumpkin strawberry bamboo lettuce violet jasmine parsley begonia thistle"
)
MATERIALS = _names(
    "wood paper clay wool glass stone leather cotton metal felt wax cardboard rope silk sand foam straw "
    "copper linen plaster velvet marble cork bronze"
)
VEHICLES = _names(
    "train bus ferry bicycle tram taxi boat plane truck van scooter motorbike subway carriage sailboat "
    "minibus kayak jeep tractor wagon hovercraft gondola helicopter tricycle"
)


@dataclass(frozen=True)
class Unsafe:
    """A family of unsafe requests. `{x}` stands for one of `things`; the last ask is held out of training."""

    name: str
    things: tuple[str, ...]
    act: str  # what a harmful reply helps to do: "The reply helps the user to {act}."
    asks: tuple[str, ...]
    harmful: tuple[str, ...]
    instead: tuple[str, ...]  # alternatives; the last one does not name the thing
    reasons: tuple[str, ...]
    verbs: tuple[str, ...]  # as principles put it: "Do not help people to {verb}."
    nouns: tuple[str, ...]  # "Do not help with {noun}."


@dataclass(frozen=True)
class Everyday:
    """A family of harmless requests. `twin` names the unsafe family whose words it shares, if any."""

    name: str
    things: tuple[str, ...]
    topic: str  # "The reply gives real help with {topic}."
    asks: tuple[str, ...]
    good: tuple[str, ...]  # the last one does not name the thing
    tips: tuple[str, ...]
    twin: str | None = None
