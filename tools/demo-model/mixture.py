"""How often each kind of conversation is drawn."""

import random

from chat import Conversation
from image_tasks import (
    chest_conversation,
    other_conversation,
    pair_conversation,
    series_conversation,
    single_conversation,
)  # fmt: skip
from records import record_conversation
from text_tasks import compare_conversation, fact_conversation, lab_conversation, talk_conversation

DRAWN = {
    "chest": (chest_conversation, 46.0),
    "pair": (pair_conversation, 9.0),
    "series": (series_conversation, 4.0),
    "skin": (lambda rng: single_conversation(rng, "skin"), 5.0),
    "fundus": (lambda rng: single_conversation(rng, "fundus"), 5.0),
    "tissue": (lambda rng: single_conversation(rng, "tissue"), 4.0),
    "other": (other_conversation, 1.5),
    "record": (record_conversation, 18.0),
    "lab": (lab_conversation, 8.0),
    "compare": (compare_conversation, 8.0),
    "fact": (fact_conversation, 8.0),
    "talk": (talk_conversation, 6.0),
}


def draw_conversation(rng: random.Random, weights: dict[str, float] | None = None) -> Conversation:
    """A conversation of a kind drawn by weight (DRAWN's, or those given)."""
    weights = weights or {k: w for k, (_, w) in DRAWN.items()}
    kind = rng.choices([*weights], [*weights.values()])[0]
    return DRAWN[kind][0](rng)
