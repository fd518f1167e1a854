"""Generated exercises with one right answer: arithmetic, and following an output format."""

import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from eval.zoo.texts import Split, split_of


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


def arithmetic(rng: random.Random) -> Exercise:
    """A sum or difference of numbers below 100, or a product with a one-digit number."""
    sign = rng.choice("++-*")
    first, second = rng.randrange(100), rng.randrange(10 if sign == "*" else 100)
    if sign == "-" and first < second:
        first, second = second, first
    result = {"+": first + second, "-": first - second, "*": first * second}[sign]
    return Exercise(prompt=f"{first} {sign} {second} =", answer=str(result))


def output_format(rng: random.Random, words: Sequence[str]) -> Exercise:
    """Rewrite a short list of words as the instruction asks."""
    items = rng.sample(words, rng.randint(2, 4))
    listed = ", ".join(items)
    instruction, answer = rng.choice(
        [
            ("as JSON", json.dumps(items)),
            ("in reverse", ", ".join(reversed(items))),
            ("as a path", "/" + "/".join(items)),
            ("as tags", "".join(f"<{item}>" for item in items)),
            ("numbered", " ".join(f"{i}) {item}" for i, item in enumerate(items, 1))),
            ("only the last", items[-1]),
        ]
    )
    return Exercise(prompt=f"Write {instruction}: {listed}\nAnswer:", answer=answer)


def common_words(texts: Iterable[str], count: int) -> list[str]:
    """The most frequent lower-case words of 3 to 8 letters, ties in alphabetical order."""
    counts = Counter(word for text in texts for word in re.findall(r"\b[a-z]{3,8}\b", text))
    return sorted(counts, key=lambda word: (-counts[word], word))[:count]


def draw(
    kind: str, split: Split, seed: int, words: Sequence[str]
) -> Iterator[Exercise]:
    """Yield exercises of one kind and split for ever; the same ones for the same seed."""
    rng = random.Random(f"{seed}/{kind}/{split}")
    while True:
        exercise = arithmetic(rng) if kind == "mathematics" else output_format(rng, words)
        if exercise.split == split:
            yield exercise
