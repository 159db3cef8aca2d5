"""Conversations with planted facts, drawn from a seed: what was said, what may be asked, what a right answer holds.

Nobody ever said these things: names, places and numbers are drawn at random, so no model can know them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .harness.prompts import Message

FIRST = [
    "Mirela",
    "Tobias",
    "Ines",
    "Kofi",
    "Yara",
    "Anselm",
    "Brigid",
    "Casimir",
    "Dalia",
    "Emeric",
    "Fenna",
    "Gideon",
    "Hedda",
    "Ilya",
    "Jorun",
    "Kerstin",
]
FIRST += [
    "Leocadia",
    "Matteo",
    "Nerys",
    "Oisin",
    "Petra",
    "Quentin",
    "Rosalind",
    "Soren",
    "Tamsin",
    "Ulrich",
    "Vesna",
    "Wendell",
    "Xenia",
    "Ysolde",
]
LAST = [
    "Harlow",
    "Okafor",
    "Lindqvist",
    "Marchetti",
    "Dragan",
    "Petrov",
    "Aldous",
    "Beaumont",
    "Castellan",
    "Ferreira",
    "Holloway",
    "Janssen",
]
CITIES = [
    "Braga",
    "Leeds",
    "Tampere",
    "Graz",
    "Utrecht",
    "Cork",
    "Lyon",
    "Malmo",
    "Trieste",
    "Gdansk",
    "Bergen",
    "Porto",
    "Ghent",
    "Basel",
    "Turku",
    "Bilbao",
]
PETS = ["Biscuit", "Pickle", "Nimbus", "Tofu", "Marble", "Waffle", "Comet", "Juniper", "Domino", "Pepper"]
COLOURS = ["green", "turquoise", "orange", "purple", "maroon", "yellow", "silver", "beige"]
JOBS = [
    "baker",
    "welder",
    "notary",
    "surgeon",
    "beekeeper",
    "tailor",
    "plumber",
    "geologist",
    "librarian",
    "pilot",
    "florist",
    "carpenter",
]
FOODS = [
    "lentils",
    "mangoes",
    "walnuts",
    "oysters",
    "celery",
    "peanuts",
    "strawberries",
    "mushrooms",
    "shrimp",
    "cashews",
]
MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
INSTRUMENTS = ["cello", "oboe", "harp", "trombone", "accordion", "banjo", "clarinet", "viola"]
SPORTS = ["fencing", "rowing", "judo", "badminton", "archery", "curling", "squash", "handball"]
LANGUAGES = ["Finnish", "Swahili", "Welsh", "Korean", "Basque", "Hungarian", "Icelandic", "Turkish"]
CARS = ["Volvo", "Skoda", "Subaru", "Peugeot", "Mazda", "Seat", "Lancia", "Dacia"]
BOATS = ["Kestrel", "Marigold", "Albatross", "Windrose", "Petrel", "Corsair"]
DISHES = ["paella", "goulash", "risotto", "pierogi", "ramen", "moussaka", "borscht", "ceviche"]
PRODUCTS = ["Lantern", "Quartz", "Meridian", "Sparrow", "Obsidian", "Cobalt", "Tundra", "Saffron"]

# (what is said, what is asked, the kind of value). {v} is the value, {w} a second one that only gives colour.
RELATIONS: tuple[tuple[str, str, Sequence[str] | str], ...] = (
    ("My sister's name is {v}.", "What is my sister's name?", FIRST),
    ("My dog is called {v}.", "What is my dog called?", PETS),
    ("I live in {v}.", "Which city do I live in?", CITIES),
    ("I work as a {v}.", "What is my job?", JOBS),
    ("I'm allergic to {v}, so keep that in mind.", "What am I allergic to?", FOODS),
    ("My door code is {v}.", "What is my door code?", "code"),
    ("My daughter was born in {v}.", "In which month was my daughter born?", MONTHS),
    ("I have been learning the {v} for a year.", "Which instrument am I learning?", INSTRUMENTS),
    ("My landlord is called Mr {v}.", "What is my landlord called?", LAST),
    ("I drive an old {v}.", "Which car do I drive?", CARS),
    ("My project at work is called {v}.", "What is my project at work called?", PRODUCTS),
    ("The deadline of the grant is the {v} of June.", "On which day of June is the deadline of the grant?", "day"),
    ("My brother plays {v} every weekend.", "Which sport does my brother play?", SPORTS),
    ("I painted my kitchen {v} last week.", "What colour is my kitchen?", COLOURS),
    ("My boat is named {v}.", "What is my boat named?", BOATS),
    ("My dentist is Dr {v}.", "Who is my dentist?", LAST),
    ("My flight to Oslo is number {v}.", "What is the number of my flight to Oslo?", "flight"),
    ("My best friend {v} is getting married.", "Which friend of mine is getting married?", FIRST),
    ("My mother comes from {v}.", "Which city does my mother come from?", CITIES),
    ("My favourite dish is {v}.", "What is my favourite dish?", DISHES),
    ("I go to the gym on {v}s.", "On which day of the week do I go to the gym?", DAYS),
    ("My cousin studies {v} at university.", "Which language does my cousin study?", LANGUAGES),
    ("I parked on level {v} of the garage.", "On which level of the garage did I park?", "small"),
    ("The wifi password in my office is {v}.", "What is the wifi password in my office?", "password"),
    ("My grandfather was a {v}.", "What was my grandfather's profession?", JOBS),
    ("Our accountant is {v}.", "Who is our accountant?", FIRST),
    ("My rent is {v} euros.", "How many euros is my rent?", "rent"),
    ("My train leaves at {v}.", "At what time does my train leave?", "time"),
    ("My cat is called {v}.", "What is my cat called?", PETS),
    ("The server of our team is named {v}.", "What is the server of our team named?", PRODUCTS),
    ("My uncle moved to {v}.", "Where did my uncle move to?", CITIES),
    ("My wedding was in {v}.", "In which month was my wedding?", MONTHS),
    ("I keep {v} bee hives behind the house.", "How many bee hives do I keep?", "small"),
    ("My bicycle is {v}.", "What colour is my bicycle?", COLOURS),
    ("My neighbour {v} waters my plants.", "Who waters my plants?", FIRST),
    ("My physiotherapist works in {v}.", "In which city does my physiotherapist work?", CITIES),
    ("My locker at the pool is number {v}.", "What is the number of my locker at the pool?", "number"),
    ("My nephew wants to become a {v}.", "What does my nephew want to become?", JOBS),
    ("The meeting with the architect is on {v}.", "On which day is the meeting with the architect?", DAYS),
    ("My book club is reading a novel set in {v}.", "Where is the novel of my book club set?", CITIES),
    ("My insurance number ends in {v}.", "What does my insurance number end in?", "number"),
    ("My old school was called {v} College.", "What was my old school called?", LAST),
    ("My tent sleeps {v} people.", "How many people does my tent sleep?", "small"),
    ("My aunt {v} taught me to cook.", "Which aunt taught me to cook?", FIRST),
    ("The plumber comes on {v}.", "On which day does the plumber come?", DAYS),
    ("My parrot is named {v}.", "What is my parrot named?", PETS),
    ("I left my umbrella in {v}.", "Where did I leave my umbrella?", CITIES),
    ("My favourite colleague is {v}.", "Who is my favourite colleague?", FIRST),
    ("My running shoes are size {v}.", "What size are my running shoes?", "shoe"),
    ("My son is afraid of {v} lessons.", "Which lessons is my son afraid of?", SPORTS),
    ("The password of the printer is {v}.", "What is the password of the printer?", "password"),
    ("My tax adviser is called Ms {v}.", "What is my tax adviser called?", LAST),
    ("I sold my {v} in spring.", "Which car did I sell in spring?", CARS),
    ("My favourite mug is {v}.", "What colour is my favourite mug?", COLOURS),
    ("My choir sings in {v} this year.", "In which language does my choir sing this year?", LANGUAGES),
    ("My goddaughter {v} turned three.", "Which goddaughter of mine turned three?", FIRST),
    ("I pick up the cake at {v}.", "At what time do I pick up the cake?", "time"),
    ("My storage unit is number {v}.", "What is the number of my storage unit?", "number"),
    ("My first employer was in {v}.", "In which city was my first employer?", CITIES),
    ("My yoga teacher is {v}.", "Who is my yoga teacher?", FIRST),
)  # fmt: skip

SMALL_TALK = (
    ("Good morning! It's raining again here.", "Good morning! A rainy day is a good excuse for a second cup of tea."),
    ("I slept badly last night.", "I'm sorry to hear that. A short walk in daylight often helps the night after."),
    ("Can you tell me a fun fact about penguins?", "Emperor penguins can stay under water for more than 20 minutes."),
    ("What should one cook on a cold evening?", "A thick soup with bread is hard to beat on a cold evening."),
    ("Do you think people should read more poetry?", "A poem takes a minute to read and can stay for years, so yes."),
    ("The traffic was terrible today.", "That is tiring. Some music or an audiobook can make it more bearable."),
    ("Why is the sky blue?", "Air scatters blue light more than red light, so blue reaches us from everywhere."),
    ("How do I get a stain out of a shirt?", "Cold water and soap right away work best for most stains."),
)
REPLIES = (
    "That is good to know.",
    "Thank you for telling me. I will keep it in mind for when you ask.",
    "How nice! I hope the rest of the week is just as good.",
    "I understand. Let me know when you need that again.",
    "Interesting, I would not have guessed that.",
    "All right, I have taken note of it. Is there anything I can help with?",
    "Thanks for sharing. That helps me to know you better.",
    "Sounds good. It is always helpful to have such details at hand.",
    "I see. Things like that are easily forgotten, so it is good that you mention it.",
)
LINKS = ("By the way, ", "Oh, and ", "Also, ", "Just so you know: ", "")

# Never said in any conversation, and none of the library's own stock of questions without an answer.
UNSAID = (
    "What is my grandfather's first name?", "Which school did I go to as a child?", "What do I weigh?",
    "Which phone company am I with?", "Who did I vote for?", "What is my favourite season?",
    "Where did I meet my best friend?", "What is my social security number?", "Which radio station do I listen to?",
    "How many cups of coffee do I drink a day?",
)  # fmt: skip


@dataclass(frozen=True)
class Fact:
    """One planted fact."""

    said: str
    question: str
    answer: str  # the word or words a right answer holds
    relation: int


@dataclass(frozen=True)
class Conversation:
    """Messages, and the facts in them."""

    messages: tuple[Message, ...]
    facts: tuple[Fact, ...]


def draw_value(kind: Sequence[str] | str, generator: random.Random) -> str:
    """A value of one kind of relation."""
    if not isinstance(kind, str):
        return generator.choice(kind)
    letters = "ABCDEFGHJKLMNPRSTUVWXYZ"
    return {
        "code": lambda: f"{generator.randint(1000, 9999)}",
        "day": lambda: _ordinal(generator.randint(4, 28)),
        "flight": lambda: f"{generator.choice(letters)}{generator.choice(letters)}{generator.randint(100, 999)}",
        "small": lambda: f"{generator.randint(3, 12)}",
        "password": lambda: f"{generator.choice(PETS).lower()}{generator.randint(10, 99)}",
        "rent": lambda: f"{generator.randint(400, 1900)}",
        "time": lambda: f"{generator.randint(6, 21)}:{generator.choice(['05', '15', '20', '35', '40', '55'])}",
        "number": lambda: f"{generator.randint(100, 999)}",
        "shoe": lambda: f"{generator.randint(36, 46)}",
    }[kind]()


def _ordinal(day: int) -> str:
    return f"{day}{ {21: 'st', 22: 'nd', 23: 'rd'}.get(day, 'th') }"


def facts(
    count: int,
    generator: random.Random,
    relations: Sequence[int] | None = None,
    allowed: Callable[[str], bool] = lambda value: True,
) -> list[Fact]:
    """Facts of different relations, and of different values, of those that are allowed."""
    chosen = list(relations) if relations is not None else generator.sample(range(len(RELATIONS)), count)
    used: set[str] = set()
    found = []
    for index in chosen:
        said, question, kind = RELATIONS[index]
        drawn = draw_value(kind, generator)
        while drawn in used or not allowed(drawn):
            drawn = draw_value(kind, generator)
        used.add(drawn)
        found.append(Fact(said.replace("{v}", drawn), question, drawn, index))
    return found


def conversation(planted: Sequence[Fact], turns: int, generator: random.Random) -> Conversation:
    """The facts spread over the user's turns, small talk in at least a quarter of them."""
    idle = set(generator.sample(range(turns), max(1, turns // 4)))
    speaking = [turn for turn in range(turns) if turn not in idle]
    by_turn: dict[int, list[Fact]] = {turn: [] for turn in range(turns)}
    for index, fact in enumerate(planted):
        by_turn[speaking[index * len(speaking) // len(planted)]].append(fact)
    messages: list[Message] = []
    talk = generator.sample(SMALL_TALK, len(idle))
    replies = [reply for _ in range(turns // len(REPLIES) + 1) for reply in generator.sample(REPLIES, len(REPLIES))]
    for turn in range(turns):
        if by_turn[turn]:
            said = " ".join(_linked(generator.choice(LINKS), fact.said) for fact in by_turn[turn])
            reply = replies.pop()
        else:
            said, reply = talk.pop()
        messages += [{"role": "user", "content": said}, {"role": "assistant", "content": reply}]
    return Conversation(tuple(messages), tuple(planted))


def _linked(link: str, said: str) -> str:
    """A link word before a sentence, which then goes on in lower case unless it begins with "I"."""
    return link + said if not link or said.startswith(("I ", "I'")) else link + said[0].lower() + said[1:]


def correct(fact: Fact, generator: random.Random, allowed: Callable[[str], bool] = lambda value: True) -> Fact:
    """The same relation with another value that is allowed, said as a correction."""
    said, question, kind = RELATIONS[fact.relation]
    drawn = fact.answer
    while drawn == fact.answer or not allowed(drawn):
        drawn = draw_value(kind, generator)
    return Fact("Something has changed: " + said.replace("{v}", drawn), question, drawn, fact.relation)
