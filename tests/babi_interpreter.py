"""A tiny interpreter of bAbI's first five tasks: it answers a question from the sentences of a story alone."""

import re

MOVE = r"went to|went back to|journeyed to|travelled to|moved to"
GET, DROP, GIVE = "got|took|grabbed|picked up", "dropped|discarded|put down|left", "gave|handed|passed"
PEOPLE = r"John|Mary|Sandra|Daniel|Bill|Fred|Jeff"
FORMS = [
    ("move", rf"(?P<who>{PEOPLE}) (?:{MOVE}) the (?P<where>\w+)\."),
    ("get", rf"(?P<who>{PEOPLE}) (?:{GET}) the (?P<what>\w+)(?: there)?\."),
    ("drop", rf"(?P<who>{PEOPLE}) (?:{DROP}) the (?P<what>\w+)(?: there)?\."),
    ("give", rf"(?P<who>{PEOPLE}) (?:{GIVE}) the (?P<what>\w+) to (?P<whom>{PEOPLE})\."),
    ("lie", r"The (?P<one>\w+) is (?P<way>north|south|east|west) of the (?P<other>\w+)\."),
]
FACT = re.compile("|".join(f"(?:{re.sub('[(][?]P<.*?>', '(?:', form)})" for _, form in FORMS))
OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}


def facts_in(text):
    """The sentences of a story in a text, in order."""
    return [match[0] for match in FACT.finditer(text)]


def answer(facts, question):
    """Answers a question; None where the story does not tell."""
    if question.startswith("What is"):
        return _direction(facts, question)
    places, things, gifts, trails = {}, {}, [], {}
    for fact in facts:
        _tell(fact, places, things, gifts)
        for what, holder in things.items():
            place = places.get(holder) if re.fullmatch(PEOPLE, str(holder)) else holder
            trail = trails.setdefault(what, [])
            if place and trail[-1:] != [place]:
                trail.append(place)
    if match := re.fullmatch(r"Where was the (\w+) before the (\w+)\?", question):
        trail = trails[match[1]]
        return trail[len(trail) - 1 - trail[::-1].index(match[2]) - 1]
    if match := re.fullmatch(r"Where is the (\w+)\?", question):
        holder = things[match[1]]
        return places.get(holder, holder)
    if match := re.fullmatch(r"Where is (\w+)\?", question):
        return places[match[1]]
    return _gift(gifts[::-1], question)


def _tell(fact, places, things, gifts):
    """Takes in a sentence: the place of each person, the place or holder of each thing, all gifts."""
    kind, found = next((kind, match) for kind, form in FORMS if (match := re.fullmatch(form, fact)))
    if kind == "move":
        places[found["who"]] = found["where"]
    elif kind == "get":
        things[found["what"]] = found["who"]
    elif kind == "drop":
        assert things[found["what"]] == found["who"], "only who has a thing drops it"
        things[found["what"]] = places.get(found["who"])
    else:
        assert things[found["what"]] == found["who"], "only who has a thing gives it"
        things[found["what"]] = found["whom"]
        gifts.append((found["who"], found["what"], found["whom"]))


def _gift(gifts, question):
    """Answers a question about the latest of the gifts that it fits."""
    forms = [
        (rf"What did ({PEOPLE}) give to ({PEOPLE})\?", (0, 2), 1),
        (rf"Who gave the (\w+) to ({PEOPLE})\?", (1, 2), 0),
        (r"Who gave the (\w+)\?", (1,), 0),
        (r"Who received the (\w+)\?", (1,), 2),
        (rf"Who did ({PEOPLE}) give the (\w+) to\?", (0, 1), 2),
    ]
    for form, keys, value in forms:
        if match := re.fullmatch(form, question):
            return next(gift[value] for gift in gifts if tuple(gift[key] for key in keys) == match.groups())
    raise AssertionError(question)


def _direction(facts, question):
    """Answers a question about places that lie in a row."""
    of = {}
    for fact in facts:
        match = re.fullmatch(FORMS[-1][1], fact)
        of[match["way"], match["other"]] = match["one"]
        of[OPPOSITE[match["way"]], match["one"]] = match["other"]
    if match := re.fullmatch(r"What is (\w+) of the (\w+)\?", question):
        return of[match[1], match[2]]
    match = re.fullmatch(r"What is the (\w+) (\w+) of\?", question)
    return of[OPPOSITE[match[2]], match[1]]
