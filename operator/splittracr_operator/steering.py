"""What edges say to live settings, and what follows for the study. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Stance(StrEnum):
    """What an edge does with settings."""

    TAKEN = "taken"
    LATER = "later"
    """They wait for its next start."""

    REFUSED = "refused"
    """It cannot use them at all."""


@dataclass(frozen=True)
class Answer:
    """What an edge says to settings; `words` where it does not take them."""

    stance: Stance
    words: str = ""


def objection(
    before: str | None, generation: int, left: Sequence[str], answers: Mapping[str, Answer]
) -> str | None:
    """Why settings are not in force: a sentence that names each of the edges `left` that refuse.

    What was said `before` stands as long as one of them has not answered: it may be the one that
    refused.
    """
    refusing: dict[str, list[str]] = {}
    for edge in left:
        answer = answers.get(edge)
        if answer is not None and answer.stance is Stance.REFUSED:
            refusing.setdefault(answer.words, []).append(edge)
    if not refusing:
        return None if all(edge in answers for edge in left) else before
    where = "; ".join(f"at {', '.join(edges)}: {words}" for words, edges in refusing.items())
    return f"The settings of generation {generation} are not in force {where}"
