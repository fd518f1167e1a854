"""Word problems with worked solutions, generated from templates."""

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from scripts.zoo.texts import Split, split_of

_NAMES = (
    *("Anna", "Ben", "Carla", "David", "Emma", "Felix", "Grace", "Hugo", "Ida", "Jonas"),
    *("Karla", "Leo", "Mia", "Noah", "Olga", "Paul", "Rosa", "Sam", "Tina", "Victor"),
)
_THINGS = (
    *("apples", "pencils", "books", "stickers", "marbles", "cookies", "stamps", "shells"),
    *("cards", "candles", "tickets", "flowers", "bottles", "coins", "buttons", "oranges"),
)
_SHOTS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class WordProblem:
    """A question, its solution step by step, and the number it ends with."""

    question: str
    steps: str
    answer: int

    @property
    def split(self) -> Split:
        """The split, by the hash of the question: no held-out question is trained on."""
        return split_of(self.question)

    @property
    def prompt(self) -> str:
        """The question; ends where the solution begins."""
        return f"Question: {self.question}\nAnswer:"

    @property
    def text(self) -> str:
        """The solved problem, two lines of training text and an empty one."""
        return f"{self.prompt} {self.steps} The answer is {self.answer}.\n\n"


def _shopping(rng: random.Random) -> WordProblem:
    count, price, extra = rng.randint(2, 12), rng.randint(2, 9), rng.randint(1, 30)
    cost = count * price
    paid, name, thing = cost + extra, rng.choice(_NAMES), rng.choice(_THINGS)
    question = rng.choice(
        [
            f"{name} buys {count} {thing} at {price} dollars each and pays with {paid} dollars. "
            "How many dollars of change are there?",
            f"A shop sells {thing} for {price} dollars each. {name} has {paid} dollars and buys "
            f"{count} of them. How many dollars are left?",
        ]
    )
    steps = f"{count} * {price} = {cost}. {paid} - {cost} = {extra}."
    return WordProblem(question=question, steps=steps, answer=extra)


def _boxes(rng: random.Random) -> WordProblem:
    boxes, each = rng.randint(3, 12), rng.randint(4, 20)
    total = boxes * each
    taken, name, thing = rng.randint(1, total - 1), rng.choice(_NAMES), rng.choice(_THINGS)
    question = rng.choice(
        [
            f"There are {boxes} boxes with {each} {thing} in each. {name} takes {taken} {thing} "
            "away. How many are left?",
            f"{name} packs {each} {thing} into each of {boxes} boxes and then sells {taken} of "
            f"the {thing}. How many {thing} remain?",
        ]
    )
    steps = f"{boxes} * {each} = {total}. {total} - {taken} = {total - taken}."
    return WordProblem(question=question, steps=steps, answer=total - taken)


def _walks(rng: random.Random) -> WordProblem:
    days, daily, last = rng.randint(2, 9), rng.randint(2, 15), rng.randint(1, 20)
    name, subtotal = rng.choice(_NAMES), days * daily
    question = rng.choice(
        [
            f"{name} walks {daily} kilometres on each of {days} days and {last} kilometres on "
            "the day after. How many kilometres is that in all?",
            f"For {days} days {name} runs {daily} kilometres a day. Then {name} runs {last} "
            "kilometres more. What is the total distance in kilometres?",
        ]
    )
    steps = f"{days} * {daily} = {subtotal}. {subtotal} + {last} = {subtotal + last}."
    return WordProblem(question=question, steps=steps, answer=subtotal + last)


def _ages(rng: random.Random) -> WordProblem:
    first, second, third = rng.sample(_NAMES, 3)
    age, older, times = rng.randint(3, 20), rng.randint(1, 15), rng.randint(2, 4)
    between = age + older
    question = rng.choice(
        [
            f"{first} is {age} years old. {second} is {older} years older than {first}. {third} "
            f"is {times} times as old as {second}. How old is {third}?",
            f"{second} is {older} years older than {first}, who is {age}. {third}'s age is "
            f"{times} times that of {second}. How old is {third}?",
        ]
    )
    steps = f"{age} + {older} = {between}. {times} * {between} = {times * between}."
    return WordProblem(question=question, steps=steps, answer=times * between)


def _sharing(rng: random.Random) -> WordProblem:
    friends, each = rng.randint(2, 9), rng.randint(2, 15)
    total = friends * each
    had, name, thing = rng.randint(1, total - 1), rng.choice(_NAMES), rng.choice(_THINGS)
    question = rng.choice(
        [
            f"{name} has {had} {thing} and gets {total - had} more. They are shared equally "
            f"among {friends} friends. How many {thing} does each friend get?",
            f"{name} collects {had} {thing} on Monday and {total - had} on Tuesday and puts "
            f"them into {friends} equal bags. How many {thing} are in each bag?",
        ]
    )
    steps = f"{had} + {total - had} = {total}. {total} / {friends} = {each}."
    return WordProblem(question=question, steps=steps, answer=each)


def _reading(rng: random.Random) -> WordProblem:
    days, pages, left = rng.randint(2, 10), rng.randint(5, 30), rng.randint(5, 120)
    read, name = days * pages, rng.choice(_NAMES)
    question = rng.choice(
        [
            f"A book has {read + left} pages. {name} reads {pages} pages a day for {days} days. "
            "How many pages are left?",
            f"{name} reads {pages} pages of a {read + left}-page book every day. How many pages "
            f"are unread after {days} days?",
        ]
    )
    steps = f"{days} * {pages} = {read}. {read + left} - {read} = {left}."
    return WordProblem(question=question, steps=steps, answer=left)


def _wages(rng: random.Random) -> WordProblem:
    hours, wage, tips = rng.randint(2, 10), rng.randint(8, 25), rng.randint(3, 60)
    earned, name = hours * wage, rng.choice(_NAMES)
    question = rng.choice(
        [
            f"{name} earns {wage} dollars an hour, works {hours} hours and gets {tips} dollars "
            "in tips. How many dollars is that in all?",
            f"{name} works {hours} hours at {wage} dollars an hour. With {tips} dollars of tips, "
            f"how many dollars does {name} take home?",
        ]
    )
    steps = f"{hours} * {wage} = {earned}. {earned} + {tips} = {earned + tips}."
    return WordProblem(question=question, steps=steps, answer=earned + tips)


def _comparison(rng: random.Random) -> WordProblem:
    first, second = rng.sample(_NAMES, 2)
    count, more, thing = rng.randint(3, 60), rng.randint(2, 40), rng.choice(_THINGS)
    other = count + more
    question = rng.choice(
        [
            f"{first} has {count} {thing}. {second} has {more} {thing} more than {first}. How "
            "many do they have together?",
            f"{second} has {more} more {thing} than {first}, who has {count}. How many {thing} "
            "do the two have in all?",
        ]
    )
    steps = f"{count} + {more} = {other}. {count} + {other} = {count + other}."
    return WordProblem(question=question, steps=steps, answer=count + other)


def _chain(rng: random.Random) -> WordProblem:
    first, second, third = (rng.randint(10, 500) for _ in range(3))
    between = first + second
    question = rng.choice(
        [
            f"What is {first} + {second} - {third}?",
            f"Add {second} to {first} and subtract {third}. What is the result?",
        ]
    )
    steps = f"{first} + {second} = {between}. {between} - {third} = {between - third}."
    return WordProblem(question=question, steps=steps, answer=between - third)


_TEMPLATES: tuple[Callable[[random.Random], WordProblem], ...] = (
    *(_shopping, _boxes, _walks, _ages, _sharing, _reading, _wages, _comparison, _chain),
)


def draw(split: Split, seed: int) -> Iterator[WordProblem]:
    """Yield different problems of one split for ever; the same ones for the same seed."""
    rng, drawn = random.Random(f"{seed}/word problems/{split}"), set[str]()
    while True:
        problem = rng.choice(_TEMPLATES)(rng)
        if problem.split == split and problem.question not in drawn:
            drawn.add(problem.question)
            yield problem


def training_text(count: int, seed: int) -> list[str]:
    """Solved problems of the training split, one text each."""
    return [problem.text for problem in itertools.islice(draw("train", seed), count)]


def answer_items(split: Split, count: int, seed: int) -> list[dict[str, str]]:
    """Problems to be solved by generation, each after two solved ones of the training split.

    Returns:
        Items with ``prompt`` and ``answer``.
    """
    shots = draw("train", seed + 1)
    return [
        {
            "prompt": "".join(s.text for s in itertools.islice(shots, _SHOTS)) + problem.prompt,
            "answer": str(problem.answer),
        }
        for problem in itertools.islice(draw(split, seed), count)
    ]


def passage_items(split: Split, count: int, seed: int) -> list[dict[str, str]]:
    """Solved problems to measure bits per byte on: other ones than :func:`answer_items`."""
    drawn = itertools.islice(draw(split, seed), count, 2 * count)
    return [{"text": problem.text.rstrip("\n")} for problem in drawn]
