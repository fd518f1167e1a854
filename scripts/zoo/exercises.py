"""Generated exercises with one right answer: arithmetic, and following an output format."""

import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from scripts.zoo.texts import Split, split_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Exercise:
    """A prompt that ends where the answer begins, and the answer: one line, no line break."""

    prompt: str
    answer: str

    @property
    def split(self) -> Split:
        """Decided by the prompt alone: no test exercise is ever trained on."""
        return split_of(self.prompt)

    @property
    def text(self) -> str:
        """The solved exercise as it stands in training text."""
        return f"{self.prompt} {self.answer}\n"


def addition(rng: random.Random) -> Exercise:
    """The sum of two numbers below 100."""
    first, second = rng.randrange(100), rng.randrange(100)
    return Exercise(prompt=f"{first} + {second} =", answer=str(first + second))


def numbers(rng: random.Random) -> Exercise:
    """A sum, the larger of two numbers, a double, a successor, or a sequence to go on with."""
    first, second, step = rng.randrange(100), rng.randrange(100), rng.randrange(1, 10)
    sequence = ", ".join(str(first + i * step) for i in range(3))
    prompt, answer = rng.choice(
        [
            (f"{first} + {second} =", first + second),
            (f"larger of {first}, {second} =", max(first, second)),
            (f"double {first} =", 2 * first),
            (f"after {first} =", first + 1),
            (f"next in {sequence} =", first + 3 * step),
        ]
    )
    return Exercise(prompt=prompt, answer=str(answer))


def output_format(rng: random.Random, words: Sequence[str]) -> Exercise:
    """Write two or three words in the format that the prompt names."""
    items = rng.sample(words, rng.randint(2, 3))
    kind, answer = rng.choice(
        [
            ("JSON", json.dumps(items)),
            ("reverse", ", ".join(reversed(items))),
            ("path", "/" + "/".join(items)),
            ("tags", "".join(f"<{item}>" for item in items)),
            ("last", items[-1]),
        ]
    )
    return Exercise(prompt=f"{kind}: {', '.join(items)} =", answer=answer)


def common_words(texts: Iterable[str], count: int) -> list[str]:
    """The most frequent lower-case words of 3 to 8 letters, ties in alphabetical order."""
    counts = Counter(word for text in texts for word in re.findall(r"\b[a-z]{3,8}\b", text))
    return sorted(counts, key=lambda word: (-counts[word], word))[:count]


_NUMBERS = {"mathematics": addition, "numbers": numbers}


def draw(kind: str, split: Split, seed: int, words: Sequence[str]) -> Iterator[Exercise]:
    """Yield exercises of one kind and split for ever; the same ones for the same seed."""
    rng = random.Random(f"{seed}/{kind}/{split}")
    while True:
        exercise = output_format(rng, words) if kind == "format" else _NUMBERS[kind](rng)
        if exercise.split == split:
            yield exercise
