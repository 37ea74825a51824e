"""Questions that the demo's users ask: about the first sentence of a docstring, worded anew."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.demo.work import zipf_sequence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.demo.texts import Text

_WORDS_MIN = 8
_WORDS_MAX = 40
_SENTENCE_END = re.compile(r"\n\s*\n|(?<=[.:])\s")
_OPENINGS = (
    "How do I {}?",
    "how can I {}",
    "Which function should I use to {}?",
    "What do I call to {}?",
    "I want to {}.",
)


@dataclass(frozen=True, slots=True)
class Question:
    """A question, and the number of the text that it is about."""

    text: int
    words: str


def ask(texts: Sequence[Text], *, count: int, exponent: float, seed: int) -> list[Question]:
    """Make questions about some texts often, about most of them rarely (Zipf).

    Of three questions one leaves a word out, so that some are the same, some similar, some not.
    """
    sentences = {number: _first_sentence(text.docstring) for number, text in enumerate(texts)}
    topics = [
        number
        for number, sentence in sentences.items()
        if _WORDS_MIN <= len(sentence.split()) <= _WORDS_MAX
    ]
    chance = random.Random(seed)
    questions = []
    for rank in zipf_sequence(calls=count, texts=len(topics), exponent=exponent, seed=seed):
        words = sentences[topics[rank]].split()
        if chance.random() < 1 / 3:
            del words[chance.randrange(len(words))]
        asked = " ".join(words)
        opening = chance.choice(_OPENINGS)
        questions.append(Question(topics[rank], opening.format(asked[0].lower() + asked[1:])))
    return questions


def _first_sentence(docstring: str) -> str:
    sentence = _SENTENCE_END.split(docstring.strip(), maxsplit=1)[0]
    return " ".join(sentence.split()).rstrip(".:")
