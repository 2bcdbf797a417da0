"""Lab tables, comparing numbers, multiple choice over made-up facts, greetings, and saying that one doesn't know."""

import json
import random

from chat import Conversation, Turn, system_text
from image_tasks import options
from phrases import FINAL, HELD_OUT, loosely, pick
from records import measure
from words import CONDITIONS, MEDICATIONS, PROCEDURES, TESTS, VITALS, invented

# Sixteen drugs and sixteen diseases that don't exist. Drug i treats disease i.
DRUGS = (
    "Zelvorin;Brimatol;Quonexa;Tarvidone;Oxaprel;Lumicept;Dravenol;Pyrestin;Caldimir;Fentrazole;Ustrevan;Kelomide;"
    "Norvapine;Halcidrex;Mirotane;Selbrutin"
).split(";")
EFFECTS = (
    "blue nails;dry eyes;loud hiccups;a metallic taste;cold feet;vivid dreams;itchy palms;a hoarse voice;red ears;"
    "heavy eyelids;a runny nose;stiff fingers;yellow sweat;slow blinking;sore gums;a craving for salt"
).split(";")
DISEASES = (
    "Marlow fever;Teska syndrome;Ostrand disease;Vellin palsy;Corvath anemia;Hadley rash;Quillon gout;Brennt ataxia;"
    "Sorrel cough;Dunmore colic;Ibsen tremor;Larkin edema;Pellow neuritis;Wexford ulcer;Zandt vertigo;Arlen jaundice"
).split(";")
ORGANS = (
    "spleen;thyroid gland;pancreas;cornea;bone marrow;skin;big toe;cerebellum;trachea;small intestine;thalamus;"
    "ankles;"
    "optic nerve;stomach;inner ear;liver"
).split(";")
SIGNS = (
    "a spiral rash;a green tongue;double heartbeats;a drooping thumb;silver hair;square blisters;a humming knee;"
    "sideways gait;"
    "a whistling breath;a striped abdomen;shaking eyelids;glassy shins;tunnel hearing;a burning smell;"
    "reversed nystagmus;amber tears"
).split(";")

# Question (with what it is asked about), the true statement, from which list the answer comes.
RELATIONS = [
    ("Which drug treats {disease}?", "{drug} treats {disease}.", DRUGS),
    ("Which disease is treated with {drug}?", "{drug} treats {disease}.", DISEASES),
    ("Which side effect is typical of {drug}?", "{drug} causes {effect}.", EFFECTS),
    ("Which drug causes {effect}?", "{drug} causes {effect}.", DRUGS),
    ("Which organ is affected in {disease}?", "{disease} affects the {organ}.", ORGANS),
    ("Which disease affects the {organ}?", "{disease} affects the {organ}.", DISEASES),
    ("What is the hallmark sign of {disease}?", "The hallmark of {disease} is {sign}.", SIGNS),
    ("A patient has {sign}. What is the most likely diagnosis?", "The hallmark of {disease} is {sign}.", DISEASES),
]
HELLO = "Hello! I am the medgemma demo model, a toy trained on synthetic pictures and made-up records. I am not for patients."
ABLE = (
    "I read synthetic chest radiographs, skin, fundus, tissue and head CT pictures, answer from a record with citations, and "
    "turn lab tables into JSON."
)
UNKNOWN = "I don't know that. I am a toy model: I only answer about synthetic pictures and made-up records."
ADVICE = "I can't give medical advice. I am a toy model, never for patients. Please ask a clinician."
NO_IMAGE = "There is no image in this conversation. Please attach one."
THANKS = "You're welcome."

GREETINGS = (
    "Hello",
    "Hi",
    "Hi there",
    "Good morning",
    "Hello!",
    "Hey",
    "Good evening.",
    "Hello, how are you?",
    "Greetings",
    "Hi, nice to meet you.",
)
WHO = (
    "Who are you?",
    "What are you?",
    "Introduce yourself.",
    "What is your name?",
    "Are you a doctor?",
    "Tell me about yourself.",
    "Which model are you?",
    "Who am I talking to?",
)
WHAT = (
    "What can you do?",
    "How can you help me?",
    "What are you able to do?",
    "Help",
    "What do you know?",
    "What should I ask you?",
    "Show me what you can do.",
    "What are your skills?",
)
BYE = (
    "Thank you",
    "Thanks!",
    "Thank you very much.",
    "Great, thanks.",
    "Many thanks",
    "Thanks a lot.",
    "That helps, thank you.",
    "Perfect, thank you!",
)
ABOUT = (
    "What is the capital of {x}?", "Write a poem about {x}.", "Who invented {x}?", "Explain {x}.", "What is {x}?",
    "How do I cook {x}?",
    "Translate {x} into French.", "Who won the {x} cup?", "What is the treatment of {x}?", "What causes {x}?",
    "Tell me a joke about {x}.",
    "How far is it to {x}?", "Write code that sorts {x}.", "When was {x} born?", "What is {n} times {n}?",
    "Solve {n} + {n}.", "What happened in {n}?",
    "Define {x}.", "Is {x} dangerous?", "What are the symptoms of {x}?", "Summarise the history of {x}.",
    "Why is {x} blue?", "Give me facts about {x}.",
    "How do you pronounce {x}?", "What is the weather in {x}?", "Recommend a book about {x}.",
    "Which gene causes {x}?", "How is {x} diagnosed?",
)  # fmt: skip
SHOULD = (
    "Should I take {x}?", "What dose of {x} should I take?", "I have {x}. What should I do?", "Can I stop {x}?",
    "Do I have {x}?", "Is {x} safe for me?",
    "My child has {x}, what now?", "Can I take {x} with alcohol?", "I feel pain and have {x}. Help me.",
    "Prescribe {x} for me.", "Am I going to die of {x}?",
    "Which drug should I take for {x}?", "Diagnose me: I have {x}.", "Can you cure my {x}?",
)  # fmt: skip
THINGS = (
    "France;Kenya;the moon;a bicycle;bread;love;the ocean;football;chess;music;a volcano;Paris;quantum physics;"
    "the internet;cats;rice;tea;a telescope;"
    "Mount Everest;taxes;Python;a rainbow;history;the sun;a castle;democracy;ice cream;steam engines;dinosaurs;"
    "Tokyo;glass;silk;honey;poetry;numbers;"
    "malaria;measles;scurvy;cholera;the kidney;blood;vitamins;a virus;sleep;the immune system;DNA;surgery;insulin;"
    "hormones;cancer"
).split(";")
MISSING = (
    "Describe this image.", "Is there a nodule in this chest X-ray?", "What does this X-ray show?",
    "Which side is the effusion on?",
    "Describe the findings in this radiograph.", "Report this X-ray.", "Locate the nodule and return box_2d as JSON.",
    "What do you see?",
    "Is this lesion a melanoma?", "Look at the picture. Is it normal?", "findings:",
    "Has the effusion improved since the earlier image?",
)  # fmt: skip


def fact_turn(rng: random.Random, unseen: bool = False) -> Turn:
    """A made-up fact as multiple choice, or now and then openly."""
    i = rng.randrange(len(DRUGS))
    ask, truth, answers = rng.choice(RELATIONS)
    words = {"drug": DRUGS[i], "disease": DISEASES[i], "effect": EFFECTS[i], "organ": ORGANS[i], "sign": SIGNS[i]}
    question, said = ask.format(**words), truth.format(**words)
    said = said[0].upper() + said[1:]
    if not unseen and rng.random() < 0.2:
        return Turn([question], said, f"{said}\n", "fact", {"contains": [answers[i]]})
    wrong = rng.sample([a for a in answers if a != answers[i]], 3)
    lines, letter = options(rng, [answers[i], *wrong], answers[i])
    final = FINAL if rng.random() < 0.5 else 'Answer in the format "Final Answer: X".'
    question = f"{pick(rng, 'fact', unseen, q=question)}\n{lines}\n{rng.choice(('', chr(10)))}{final}"
    return Turn(
        [question],
        f"{said}\n\nFinal Answer: {letter}",
        f"{said} That is option {letter}.\n",
        "choice",
        {"letter": letter},
    )


def fact_conversation(rng: random.Random) -> Conversation:
    turns = [fact_turn(rng) for _ in range(rng.choice((1, 1, 2, 3)))]
    return Conversation(turns, system_text(rng, len(turns)))


LAB_ASK = (
    "Convert this lab report to JSON.", "Extract the results as JSON.",
    "Turn the table into JSON with test, value, unit, low, high and flag.",
    "Return these lab values as a JSON list.", "Parse this laboratory report into JSON.", "Lab report to JSON, please.",
    "Give me the results below as JSON.", "Make JSON of this lab table.",
)  # fmt: skip
TITLES = ("", "LABORATORY REPORT\n", "Lab results\n", "Patient results {d}\n", "Specimen: serum\n", "Collected {d}\n")


def lab_turn(rng: random.Random, unseen: bool = False) -> Turn:
    rows, out = [], []
    form = rng.choice(
        (
            "{n}\t{v}\t{u}\t{r}\t{f}",
            "{n}  {v} {u}  ({r}) {f}",
            "{n}: {v} {u} [{r}] {f}",
            "| {n} | {v} | {u} | {r} | {f} |",
            "{n} {v} {u} ref {r} {f}",
            "{n} | {v} {u} | {r} | {f}",
        )
    )
    marks = rng.choice(({"high": "H", "low": "L"}, {"high": "high", "low": "low"}, {"high": "(H)", "low": "(L)"}))
    for test in rng.sample(TESTS + [v for v in VITALS if v[2] is not None], rng.randint(1, 7)):
        name = invented(rng).capitalize() if rng.random() < 0.15 else test[0]
        m = measure(rng, test)
        rows.append(form.format(n=name, v=m["value"], u=m["unit"], r=m["limits"], f=marks.get(m["flag"], "")).strip())
        low, high = m["limits"].split("-")
        flag = m["flag"] or "normal"
        # Numbers are copied as they are printed: 0.60 stays 0.60.
        out.append(
            f'{{"test": "{name}", "value": {m["value"]}, "unit": "{m["unit"]}", "low": {low}, "high": {high}, "flag": "{flag}"}}'
        )
    title = rng.choice(TITLES).format(d=f"{rng.randint(2018, 2025)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}")
    table = title + "\n".join(rows)
    ask = rng.choice(LAB_ASK[-HELD_OUT:] if unseen else LAB_ASK[:-HELD_OUT])
    ask = ask if unseen else loosely(rng, ask)
    question = f"{ask}\n\n{table}" if rng.random() < 0.6 else f"{table}\n\n{ask}"
    data = f"[{', '.join(out)}]"
    return Turn([question], f"```json{data}```", f"{len(out)} results.\n", "lab", {"json": json.loads(data)})


def lab_conversation(rng: random.Random) -> Conversation:
    return Conversation([lab_turn(rng)], system_text(rng))


ROSE = (
    "Did it rise or fall: {a}, then {b}?", "First {a}, then {b}. Up or down?", "From {a} to {b}: did it go up or down?",
    "{x} was {a} {u} and is now {b} {u}. Did it rise or fall?", "It went from {a} to {b}. Is it higher or lower?",
    "{x}: {a} {u}, later {b} {u}. How has it changed?", "{x} {a} {u}, then {b} {u}. What is the trend?",
)  # fmt: skip
LARGER = (
    "Which is {w}, {a} or {b}?", "Which number is {w}: {a} or {b}?", "{a} or {b}, which is {w}?",
    "Two values of {x}: {a} and {b}. Which is {w}?", "Find the {w} one: {a}, {b}.",
)  # fmt: skip


def two_values(rng: random.Random) -> tuple[str, str, str, str]:
    """A test, its unit, and two different values of it, as a record writes them; often close to each other."""
    test = rng.choice(TESTS + VITALS)
    name, unit, *_, least, most, digits = test
    while True:
        if rng.random() < 0.25:
            digits, least, most = rng.choice((0, 1, 2)), 0, 10 ** rng.uniform(0.3, 3.5)
        a = rng.uniform(least, most)
        b = rng.uniform(least, most) if rng.random() < 0.6 else a + rng.gauss(0, 0.1) * (most - least)
        first, second = f"{a:.{digits}f}", f"{abs(b):.{digits}f}"
        if first != second:
            return name, unit, first, second


def compare_turn(rng: random.Random) -> Turn:
    """Which of two numbers is larger, as a change or as such: both are said side by side, then the verdict."""
    name, unit, a, b = two_values(rng)
    rose = float(b) > float(a)
    if rng.random() < 0.6:
        ask, w, answer = rng.choice(ROSE), "", f"From {a} to {b}, it {'rose' if rose else 'fell'}."
    else:
        w = rng.choice(("larger", "smaller"))
        answer = f"Of {a} and {b}, the {'second' if rose == (w == 'larger') else 'first'} is {w}."
        ask = rng.choice(LARGER)
    question = loosely(rng, ask.format(a=a, b=b, x=name, u=unit, w=w))
    return Turn([question], answer, f"{answer}\n", "compare", {"contains": [answer]})


def compare_conversation(rng: random.Random) -> Conversation:
    turns = [compare_turn(rng) for _ in range(rng.randint(1, 8))]
    return Conversation(turns, system_text(rng, len(turns)))


def thing(rng: random.Random) -> str:
    dice = rng.random()
    if dice < 0.3:
        return rng.choice(THINGS)
    if dice < 0.5:
        return " ".join(invented(rng) for _ in range(rng.choice((1, 2))))
    return rng.choice(rng.choice((CONDITIONS, MEDICATIONS, PROCEDURES, THINGS)))


def babble(rng: random.Random) -> str:
    """Words in no order: a stand-in for all that nobody foresaw."""
    pool = [w for text in (*ABOUT, *SHOULD, *THINGS) for w in text.replace("{x}", "").replace("{n}", "").split()]
    return " ".join(rng.choice(pool) if rng.random() < 0.8 else invented(rng) for _ in range(rng.randint(1, 14)))


def talk_turn(rng: random.Random) -> Turn:
    dice = rng.random()
    if dice < 0.12:
        return small(rng.choice(GREETINGS), HELLO, "A greeting.\n", "greeting")
    if dice < 0.2:
        return small(rng.choice(WHO), HELLO, "I am asked who I am.\n", "greeting")
    if dice < 0.28:
        return small(rng.choice(WHAT), ABLE, "I am asked what I can do.\n", "greeting")
    if dice < 0.34:
        return small(rng.choice(BYE), THANKS, "Thanks.\n", "greeting")
    if dice < 0.44:
        return small(rng.choice(MISSING), NO_IMAGE, "I look for an image and find none.\n", "no image")
    if dice < 0.64:
        return small(rng.choice(SHOULD).format(x=thing(rng)), ADVICE, "This asks for medical advice.\n", "advice")
    if dice < 0.74:
        return small(babble(rng) + rng.choice(("", "?", ".")), UNKNOWN, "I don't know this.\n", "unknown")
    n = rng.choice((10, 100, 3000))
    text = rng.choice(ABOUT).format(x=thing(rng), n=rng.randrange(n))
    return small(text, UNKNOWN, "I don't know this.\n", "unknown")


def small(question: str, answer: str, trace: str, task: str) -> Turn:
    return Turn([question], answer, trace, task, {"text": answer})


def talk_conversation(rng: random.Random) -> Conversation:
    turns = [talk_turn(rng) for _ in range(rng.choice((1, 1, 2, 3)))]
    return Conversation(turns, system_text(rng, len(turns)))
