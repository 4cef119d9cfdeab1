"""Stories of the first five bAbI tasks (arXiv 1502.05698), simulated: people who move, take, drop and give things.

World, actions and questions are those of facebookarchive/bAbI-tasks; the sentences are those of the published data
(version 1.2, "en"), from which BABILong takes its stories.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from famjax.data.questions.babilong_config import BabiTask

PLACES: Final = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
OBJECTS: Final = ("apple", "football", "milk")
PEOPLE: Final = ("John", "Mary", "Sandra", "Daniel")
GIVERS: Final = ("Bill", "Fred", "Jeff", "Mary")
MOVES: Final = ("went to", "went back to", "journeyed to", "travelled to", "moved to")
GETS: Final = ("got", "took", "grabbed", "picked up")
DROPS: Final = ("dropped", "discarded", "put down", "left")
GIVES: Final = ("gave", "handed", "passed")
_DIRECTIONS: Final = {"north": "south", "east": "west", "south": "north", "west": "east"}
_NUM_QUESTIONS = 5


@dataclasses.dataclass(frozen=True)
class Story:
    """A story and its question.

    Attributes:
      facts: sentences, in order.
      question: about them.
      answer: one word.
      statement: the answer as BABILong's examples word it.
    """

    facts: tuple[str, ...]
    question: str
    answer: str
    statement: str


def draw_stories(random: np.random.Generator, task: BabiTask) -> list[Story]:
    """Draws the stories that end with each of the questions of one story of bAbI, shortest first."""
    if task == "qa4":
        return [_draw_directions(random)]
    world = _World(random, GIVERS if task == "qa5" else PEOPLE)
    return _TELLERS[task](world)


def all_facts(task: BabiTask) -> list[str]:
    """Every sentence that a story of a task may hold."""
    if task == "qa4":
        return [f"The {one} is {way} of the {other}." for one in PLACES for other in PLACES for way in _DIRECTIONS]
    people = GIVERS if task == "qa5" else PEOPLE
    facts = [f"{who} {move} the {place}." for who in people for move in MOVES for place in PLACES]
    if task != "qa1":
        facts += [
            f"{who} {verb} the {what}{there}."
            for who in people
            for verb in (*GETS, *DROPS)
            for what in OBJECTS
            for there in ("", " there")
        ]
    if task == "qa5":
        facts += [
            f"{who} {give} the {what} to {whom}."
            for who in people
            for give in GIVES
            for what in OBJECTS
            for whom in people
        ]
    return facts


class _World:
    """A world, and what its story tells of it.

    Attributes:
      facts: the sentences so far.
      told: the place of each person that the story tells.
    """

    def __init__(self, random: np.random.Generator, people: Sequence[str]) -> None:
        self.random, self.people = random, people
        self.facts: list[str] = []
        self.told: dict[str, str] = {}
        # Where they are at first, no story tells.
        self._places = {who: self.one_of(PLACES) for who in people}
        self._things = {what: self.one_of(PLACES) for what in OBJECTS}  # a place, or who carries it
        self._known: dict[str, str] = {}  # the place where a thing was put down, or who carries it
        self._histories: dict[str, list[str]] = {what: [] for what in OBJECTS}

    def one_of(self, values: Sequence[str]) -> str:
        """Draws one."""
        return values[int(self.random.random() * len(values))]

    def place_of(self, what: str) -> str | None:
        """The place of a thing, as far as the story tells it."""
        known = self._known.get(what)
        return self.told.get(known) if known is not None and known in self.people else known

    def history(self, what: str) -> list[str]:
        """The places of a thing so far, as far as the story tells them, each different from the one before."""
        return self._histories[what]

    def move(self) -> None:
        """Somebody goes elsewhere."""
        who = self.one_of(self.people)
        place = self.one_of([place for place in PLACES if place != self._places[who]])
        self._places[who] = self.told[who] = place
        self._tell(f"{who} {self.one_of(MOVES)} the {place}.")

    def get_or_drop(self) -> bool:
        """Somebody takes or drops a thing; False: nobody can."""
        possible = self.possible_gets() + self.possible_drops()
        if possible:
            self.handle(*possible[int(self.random.integers(len(possible)))])
        return bool(possible)

    def possible_gets(self) -> list[tuple[str, str]]:
        """Who can take what."""
        return [(who, what) for who in self.people for what in OBJECTS if self._things[what] == self._places[who]]

    def possible_drops(self) -> list[tuple[str, str]]:
        """Who can drop what."""
        return [(who, what) for who in self.people for what in OBJECTS if self._things[what] == who]

    def possible_gives(self) -> list[tuple[str, str, str]]:
        """Who can give what to whom."""
        return [
            (who, what, whom)
            for who, what in self.possible_drops()
            for whom in self.people
            if whom != who and self._places[whom] == self._places[who]
        ]

    def handle(self, who: str, what: str) -> None:
        """Somebody drops a thing, or takes it."""
        there = self.one_of(("", " there"))
        if self._things[what] == who:
            self._things[what] = self._places[who]
            self._known.pop(what, None)
            if who in self.told:
                self._known[what] = self.told[who]
            self._tell(f"{who} {self.one_of(DROPS)} the {what}{there}.")
        else:
            self._things[what] = self._known[what] = who
            self._tell(f"{who} {self.one_of(GETS)} the {what}{there}.")

    def give(self, who: str, what: str, whom: str) -> None:
        """Somebody gives a thing to somebody."""
        self._things[what] = self._known[what] = whom
        self._tell(f"{who} {self.one_of(GIVES)} the {what} to {whom}.")

    def _tell(self, fact: str) -> None:
        self.facts.append(fact)
        for what, history in self._histories.items():
            place = self.place_of(what)
            if place is not None and [place] != history[-1:]:
                history.append(place)


def _where_is_somebody(world: _World) -> list[Story]:
    """qa1: five questions, after two sentences each."""
    stories = []
    for _ in range(_NUM_QUESTIONS):
        world.move()
        world.move()
        who = world.one_of(sorted(world.told))
        place = world.told[who]
        statement = f"The most recent location of {who} is {place}."
        stories.append(Story(tuple(world.facts), f"Where is {who}?", place, statement))
    return stories


def _with_things(world: _World, ask: Callable[[_World], Story | None]) -> list[Story]:
    """Five questions, each after three sentences or more."""
    stories, since = list[Story](), 0
    while len(stories) < _NUM_QUESTIONS:
        if world.random.integers(3) == 0:
            world.move()
        elif not world.get_or_drop():
            continue
        since += 1
        if since > 2 and world.random.integers(2) == 0:
            story = ask(world)
            if story is not None:
                stories.append(story)
                since = 0
    return stories


def _where_is_something(world: _World) -> Story | None:
    """qa2."""
    known = [what for what in OBJECTS if world.place_of(what) is not None]
    if not known:
        return None
    what = world.one_of(known)
    place = str(world.place_of(what))
    return Story(tuple(world.facts), f"Where is the {what}?", place, f"The {what} is in the {place}.")


def _where_was_something(world: _World) -> Story | None:
    """qa3."""
    moved = [what for what in OBJECTS if len(world.history(what)) > 1]
    if not moved:
        return None
    what = world.one_of(moved)
    before, last = world.history(what)[-2:]
    question = f"Where was the {what} before the {last}?"
    return Story(tuple(world.facts), question, before, f"Before the {last} the {what} was in the {before}.")


def _who_gave_what(world: _World) -> list[Story]:
    """qa5: five questions about gifts, each followed by up to five sentences about other things."""
    stories, since = list[Story](), 0
    while len(stories) < _NUM_QUESTIONS:
        gift = _do_something(world, None)
        since += 1
        if gift is None or since < 2:
            continue
        for _ in range(int(world.random.integers(6))):
            _do_something(world, gift)
        question, answer = _ask_about_gift(world, *gift)
        stories.append(Story(tuple(world.facts), question, answer, f"{answer}."))
        since = 0
    return stories


def _do_something(world: _World, other_than: tuple[str, str, str] | None) -> tuple[str, str, str] | None:
    """Somebody moves, takes, drops or gives: not this thing, nor anything from this giver to this receiver.

    Returns:
      The gift, if it is one.
    """
    giver, thing, receiver = other_than or ("", "", "")
    while True:
        kind = int(world.random.integers(4))
        if kind == 0:
            world.move()
            return None
        if kind == 1:
            gives = [one for one in world.possible_gives() if one[1] != thing and one[::2] != (giver, receiver)]
            if gives:
                gift = gives[int(world.random.integers(len(gives)))]
                world.give(*gift)
                return gift
            continue
        possible = world.possible_gets() if kind == 2 else world.possible_drops()
        possible = [one for one in possible if one[1] != thing]
        if possible:
            world.handle(*possible[int(world.random.integers(len(possible)))])
            return None


def _ask_about_gift(world: _World, who: str, what: str, whom: str) -> tuple[str, str]:
    """A question about the last gift of its kind, and its answer."""
    forms = (
        (f"What did {who} give to {whom}?", what),
        (f"Who gave the {what} to {whom}?", who),
        (f"Who gave the {what}?", who),
        (f"Who received the {what}?", whom),
        (f"Who did {who} give the {what} to?", whom),
    )
    return forms[int(world.random.integers(len(forms)))]


def _draw_directions(random: np.random.Generator) -> Story:
    """qa4: three places in a row, two sentences about neighbours, a question about the one in the middle."""
    first, middle, last = (PLACES[number] for number in random.choice(len(PLACES), 3, replace=False))
    way = ("north", "east")[int(random.integers(2))]  # in which each is of the one before
    back = _DIRECTIONS[way]

    def fact(one: str, other: str) -> str:
        """That `other` is in that direction of `one`, or `one` in the opposite direction of it."""
        return f"The {other} is {way} of the {one}." if random.integers(2) else f"The {one} is {back} of the {other}."

    facts = [fact(first, middle), fact(middle, last)]
    if random.integers(2):
        facts.reverse()
    forms = (
        (f"What is {way} of the {middle}?", last),
        (f"What is {back} of the {middle}?", first),
        (f"What is the {middle} {way} of?", first),
        (f"What is the {middle} {back} of?", last),
    )
    question, answer = forms[int(random.integers(len(forms)))]
    return Story(tuple(facts), question, answer, f"{answer}.")


_TELLERS: Final[dict[str, Callable[[_World], list[Story]]]] = {
    "qa1": _where_is_somebody,
    "qa2": lambda world: _with_things(world, _where_is_something),
    "qa3": lambda world: _with_things(world, _where_was_something),
    "qa5": _who_gave_what,
}
