"""Masterplans for the validation: questions about Python's standard library, some asked again."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from tests.demo.questions import ask
from tests.demo.texts import collect
from tests.demo.work import zipf_sequence

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = 1200
_ZIPF = 0.8


@dataclass(frozen=True, slots=True)
class Plan:
    """A masterplan: what its atoms ask, in their order."""

    name: str
    atoms: tuple[str, ...]

    @property
    def repetition(self) -> float:
        """The share of atoms that ask what an earlier one has asked, in the same words."""
        return 1 - len(set(self.atoms)) / len(self.atoms)

    def write(self, path: Path) -> None:
        """Write it for another process."""
        path.write_text(json.dumps(asdict(self)))


def read_plan(path: Path) -> Plan:
    """Read what ``write`` wrote."""
    content = json.loads(path.read_text())
    return Plan(content["name"], tuple(content["atoms"]))


def make_plan(name: str, *, atoms: int, repetition: float, seed: int) -> Plan:
    """Make a plan in which that share of the atoms repeats an earlier one.

    Which questions are repeated how often follows Zipf's law. Of three questions one is worded
    with a word left out: it is nearly the same as another one, which only the RAG cache notices.
    """
    different = max(1, round(atoms * (1 - repetition)))
    questions = _different_questions(different, seed=seed)
    chance = random.Random(seed)
    again = zipf_sequence(calls=atoms - different, texts=different, exponent=_ZIPF, seed=seed)
    asked = [*questions, *(questions[number] for number in again)]
    chance.shuffle(asked)
    return Plan(name, tuple(asked))


def change(plan: Plan, *, share: float, seed: int) -> Plan:
    """Return the plan as a re-plan has it: that share of its atoms asks something new."""
    chance = random.Random(seed + 1)
    changed = chance.sample(range(len(plan.atoms)), round(len(plan.atoms) * share))
    known = set(plan.atoms)
    fresh = iter(
        each
        for each in _different_questions(len(known) + len(changed), seed=seed + 1)
        if each not in known
    )
    atoms = list(plan.atoms)
    for place in changed:
        atoms[place] = next(fresh)
    return Plan(f"{plan.name}, re-planned", tuple(atoms))


def _different_questions(count: int, *, seed: int) -> list[str]:
    texts = collect(TEXTS)
    found: dict[str, None] = {}
    for attempt in range(100):
        for question in ask(texts, count=count, exponent=0.2, seed=seed + 1000 * attempt):
            found[question.words] = None
            if len(found) == count:
                return list(found)
    raise ValueError(f"there are no {count} different questions")
