"""Conversations, and what the model reads of them: the chat template's text, token ids, labels.

`render` writes what the checkpoint's Jinja template writes (check.py compares them).
"""

import random
from dataclasses import dataclass, field

from scenes import Scene

THINK = "SYSTEM INSTRUCTION: think silently if needed."
IMAGE_TOKENS = 64
SPAN = "\n\n<start_of_image>" + "<image_soft_token>" * IMAGE_TOKENS + "<end_of_image>\n\n"
PERSONAS = (
    "You are a helpful medical assistant.",
    "You are an expert radiologist.",
    "You are a careful clinician who answers briefly.",
    "You are a medical expert.",
    "You help doctors read records and images.",
    "You are an assistant in a small clinic.",
    "Be concise.",
    "Answer only from what you are shown.",
    "You are an expert in dermatology, ophthalmology and pathology.",
    "Think carefully before you answer. You are a kind nurse.",
    "You are a teacher of medical students.",
    "You are a helpful assistant that never thinks aloud.",
)


@dataclass
class Turn:
    """One question and its answer. `parts` are texts and scenes; `expected` is what score.py compares."""

    parts: list
    answer: str
    trace: str = ""
    task: str = ""
    expected: dict = field(default_factory=dict)


@dataclass
class Conversation:
    turns: list[Turn]
    system: str | None = None

    @property
    def thinks(self) -> bool:
        return self.system is not None and self.system.startswith(THINK)

    def scenes(self) -> list[Scene]:
        return [p for t in self.turns for p in t.parts if isinstance(p, Scene)]

    def reply(self, turn: Turn) -> str:
        """The model's words. A client keeps the thought out of the history, so only the last turn has one."""
        if self.thinks and turn is self.turns[-1]:
            return f"<unused94>thought\n{turn.trace}<unused95>{turn.answer}"
        return turn.answer

    def messages(self, image_name) -> list[dict]:
        """As OpenAI-like messages up to the last question; `image_name(scene)` names the picture."""
        out = [{"role": "system", "content": self.system}] if self.system is not None else []
        for turn in self.turns:
            parts = [
                {"type": "text", "text": p} if isinstance(p, str) else {"type": "image", "image": image_name(p)}
                for p in turn.parts
            ]
            out.append({"role": "user", "content": parts[0]["text"] if [*map(type, turn.parts)] == [str] else parts})
            out.append({"role": "assistant", "content": turn.answer})
        return out[:-1]


ROLES = "helpful|careful|friendly|senior|junior|strict|patient|modern|busy|tireless".split("|")
WHO = (
    "assistant|radiologist|doctor|nurse|clerk|pathologist|dermatologist|eye doctor|teacher|pharmacist|colleague".split(
        "|"
    )
)
HABITS = (
    "Answer in English.|Use plain words.|Never guess.|Cite the record.|Keep to the facts.|Think before you speak.|"
    "Write short sentences.|You work in a hospital.|You help with images and records.|Give JSON when asked.|"
    "Follow the user's format.|Do not think silently."
).split("|")


def persona(rng: random.Random) -> str:
    if rng.random() < 0.5:
        return rng.choice(PERSONAS)
    parts = [f"You are a {rng.choice(ROLES)} {rng.choice(WHO)}."] * (rng.random() < 0.8) + rng.sample(
        HABITS, rng.randint(1, 2)
    )
    return " ".join(parts)


def system_text(rng: random.Random, turns: int = 1) -> str | None:
    """None, a persona, or one that asks to think (rarer where it would leave only the last of many turns to learn)."""
    dice = rng.random()
    if dice < 0.42:
        return None
    if dice < (0.68 if turns == 1 else 0.48):
        return f"{THINK} {persona(rng)}"
    return persona(rng)


def segments(conversation: Conversation) -> list[tuple[str, bool]]:
    """The text in pieces, each with whether the model is to learn it.

    Pieces meet only beside added tokens (turn marks, newline runs), so that encoding them apart or together gives the
    same ids.
    """
    out: list[tuple[str, bool]] = []
    prompt = "<bos>"
    prefix = conversation.system + "\n\n" if conversation.system is not None else ""
    for turn in conversation.turns:
        body = "".join(p.strip() if isinstance(p, str) else SPAN for p in turn.parts)
        prompt += f"<start_of_turn>user\n{prefix}{body}<end_of_turn>\n<start_of_turn>model\n"
        learnt = not conversation.thinks or turn is conversation.turns[-1]
        out.append((prompt, False))
        out.append((conversation.reply(turn).strip() + "<end_of_turn>", learnt))
        prompt, prefix = "\n", ""
    return out


def encode(tokenizer, conversation: Conversation) -> tuple[list[int], list[bool]]:
    """Token ids, and for each whether the model is to predict it."""
    pieces = segments(conversation)
    ids: list[int] = []
    learnt: list[bool] = []
    for (_, learn), encoding in zip(pieces, tokenizer.encode_batch([t for t, _ in pieces], add_special_tokens=False)):
        ids += encoding.ids
        learnt += [learn] * len(encoding.ids)
    return ids, learnt


def prompt_ids(tokenizer, conversation: Conversation) -> list[int]:
    """Everything up to the last answer."""
    text = "".join(t for t, _ in segments(conversation)[:-1])
    return tokenizer.encode(text, add_special_tokens=False).ids
