"""Condensed patient records and questions about them, answered with `[Type/id]` citations."""

import random
import string

from chat import Conversation, Turn, system_text
from phrases import HELD_OUT, loosely
from words import (
    ALIASES,
    ALLERGENS,
    CONDITIONS,
    MEDICATIONS,
    NOTES,
    PROCEDURES,
    REACTIONS,
    TESTS,
    VACCINES,
    VISITS,
    VITALS,
    dose,
    some,
)  # fmt: skip

START, END = "======= Patient EHR Data =======", "======= End Patient EHR Data ======="
ABSENT = "That is not in the record."

ASK = {
    "latest": (
        "{x}, most recent?", "What does the record say about {x}?", "How high is the {x}?", "Please look up the {x}.",
        "What is the current {x}?", "Do we have a recent {x}?", "The newest {x}, please.", "Read me the last {x}.",
        "What {x} was measured last?", "Which {x} did the patient have most recently?",
        "What was the most recent {x}?", "What is the latest {x}?", "Give the last {x} and its date.", "Latest {x}?",
        "What is the patient's {x}?", "Find the newest {x} in the record.", "What did the last {x} show?",
        "Tell me the most recent {x} result.", "When was {x} last measured, and what was it?",
    ),
    "on": (
        "Tell me the {x} measured on {d}.", "On {d}, what was the {x}?", "Find the {x} for {d}.",
        "How high was the {x} on {d}?", "On {d}, which {x} was found?",
        "What was the {x} on {d}?", "{x} on {d}?", "Give the {x} of {d}.", "What value did {x} have on {d}?",
        "Look up the {x} from {d}.", "Which {x} was recorded on {d}?",
    ),
    "medication": (
        "Does the record mention {x}?", "Tell me about {x}.", "Is {x} being given?",
        "Has the patient ever been on {x}?", "How is {x} taken?", "When did {x} start?", "Did anyone prescribe {x}?",
        "Is the patient taking {x}?", "Does the patient take {x}?", "Is {x} on the medication list?",
        "What dose of {x} is prescribed?",
        "Since when has {x} been prescribed?", "Find {x} among the medications.", "Was {x} ever prescribed?",
    ),
    "condition": (
        "Tell me about {x}.", "Does the record mention {x}?", "Is {x} active or resolved?", "Any history of {x}?",
        "Date of the diagnosis of {x}?", "Did the patient ever suffer from {x}?", "Is {x} known?",
        "When was {x} diagnosed?", "Does the patient have {x}?", "Is {x} in the history?", "What is the status of {x}?",
        "Has the patient been diagnosed with {x}?", "Since when does the patient have {x}?",
        "Is there a diagnosis of {x}?",
    ),
    "allergy": (
        "What happens when the patient gets {x}?", "Can the patient have {x}?", "How does {x} affect the patient?",
        "Does {x} cause a reaction?", "Is {x} listed as an allergy?",
        "Is the patient allergic to {x}?", "What reaction does {x} cause?", "Is there an allergy to {x}?",
        "Any {x} allergy?",
        "How does the patient react to {x}?", "Would {x} be a problem for this patient?",
    ),
    "procedure": (
        "On which date was the {x}?", "Did the patient undergo {x}?", "Tell me about the {x}.",
        "What day did the {x} take place?", "Is there a {x} in the record?", "Was there ever a {x}?",
        "When was the {x} done?", "Has the patient had {x}?", "Date of the {x}?", "Was {x} performed?",
        "Did the patient ever have {x}?",
        "On what day was {x} carried out?",
    ),
    "vaccine": (
        "When was the patient vaccinated against {x}?", "Tell me about the {x} vaccination.",
        "Did the patient receive the {x} vaccine?", "Is there a {x} shot in the record?",
        "On what day was the {x} vaccine given?",
        "When was the last {x} vaccine?", "Has the patient had the {x} vaccine?", "Date of the {x} vaccine?",
        "Is the patient vaccinated against {x}?",
        "When did the patient get the {x} shot?", "Was the {x} vaccine given?",
    ),
    "conditions": (
        "What is the patient suffering from now?", "Give the active problem list.",
        "Which diagnoses are still active?", "Tell me all active conditions.", "What illnesses are current?",
        "Which conditions are active?", "List the active conditions.", "What active problems does the patient have?",
        "Name the active diagnoses.",
        "Summarise the active problem list.", "What are the current conditions?",
    ),
    "medications": (
        "What is on the active medication list?", "Tell me all drugs that are active.",
        "Name what the patient is taking.", "Which prescriptions are current?", "Current medications?",
        "Which medications are active?", "List the current medications.", "What does the patient take now?",
        "Name the active medications.",
        "Which drugs is the patient on?", "Give the present medication list.",
    ),
    "allergies": (
        "Does the patient have any allergy?", "Name the known allergies.", "What is the patient allergic to?",
        "Allergies?", "Which substances must be avoided?",
        "What allergies does the patient have?", "List the allergies.", "Any allergies?",
        "Which allergies are recorded?",
        "Tell me all allergies.", "Is there anything the patient is allergic to?",
    ),
    "abnormal": (
        "Show the abnormal values.", "Which tests are out of range?", "Name all results that are flagged.",
        "Are any values too high or too low?", "Give every abnormal result.",
        "Which results are abnormal?", "List the abnormal results.", "Which values are high or low?",
        "What is out of range?",
        "Name each abnormal value.", "Point out all results outside their range.",
    ),
    "patient": (
        "What is the age of the patient?", "When was the patient born?", "What sex is the patient?",
        "Tell me age and sex of the patient.", "Describe the patient in one line.",
        "How old is the patient?", "What is the patient's birth date?", "Is the patient male or female?",
        "Who is this patient?",
        "Give age and sex.", "State the sex and the birth date of the patient.",
    ),
    "trend": (
        "Tell me how the {x} developed.", "What happened to the {x} between the last two measurements?",
        "In which direction did the {x} go?", "Is the {x} higher or lower than before?",
        "How did the {x} change over time?",
        "How has the {x} changed?", "Has the {x} gone up or down?", "What is the trend of the {x}?",
        "Did the {x} rise or fall?",
        "Compare the last two {x} values.", "Is the {x} going up or down?",
    ),
}  # fmt: skip


def ask(rng: random.Random, key: str, unseen: bool, **words: str) -> str:
    choices = ASK[key]
    text = rng.choice(choices[-HELD_OUT:] if unseen else choices[:-HELD_OUT]).format(**words)
    return text if unseen else loosely(rng, text)


def date(rng: random.Random, first: int = 2012, last: int = 2025) -> str:
    return f"{rng.randint(first, last)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"


class Ids:
    """Ids of one record, in one of the styles that servers use."""

    def __init__(self, rng: random.Random):
        self.rng, self.style, self.used = rng, rng.randrange(5), set()

    def new(self, kind: str) -> str:
        while True:
            n = self.rng.randrange
            made = (
                str(n(10, 100000)) if self.style == 0
                else f"{kind[0].lower()}{n(1, 400)}" if self.style == 1
                else "".join(self.rng.choice("0123456789abcdef") for _ in range(6)) if self.style == 2
                else f"{kind[:3].lower()}-{n(1, 1000)}" if self.style == 3
                else self.rng.choice(string.ascii_lowercase) + str(n(10, 100)) + self.rng.choice(string.ascii_lowercase)
            )  # fmt: skip
            if made not in self.used:
                self.used.add(made)
                return f"{kind}/{made}"


def measure(rng: random.Random, test: tuple) -> dict:
    name, unit, low, high, least, most, digits = test
    value = rng.uniform(least, most)
    if low is not None and rng.random() < 0.5:
        value = rng.uniform(low, high)
    text = f"{value:.{digits}f}"
    flag = ""
    if low is not None:
        flag = "low" if float(text) < low else "high" if float(text) > high else ""
    limits = f"{low:.{digits}f}-{high:.{digits}f}" if low is not None else ""
    return {"name": name, "value": text, "unit": unit, "limits": limits, "flag": flag}


class Record:
    """One patient: entries by section, each with a date, its text and its reference."""

    def __init__(self, rng: random.Random, length: float = 1.0):
        self.rng = rng
        new = Ids(rng).new
        few = lambda most: rng.randint(0, max(1, round(most * length)))  # noqa: E731
        born = rng.randint(1935, 2005)
        self.sex, self.born, self.age = (
            rng.choice(("female", "male")),
            f"{born}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}",
            2025 - born,
        )
        self.patient = new("Patient")
        self.conditions = [
            {
                "name": n,
                "date": date(rng),
                "status": rng.choice(("active", "active", "resolved")),
                "ref": new("Condition"),
            }
            for n in some(rng, CONDITIONS, few(6), lambda r: r.choice((" fever", " syndrome", " disease")))
        ]
        self.medications = [
            {
                "name": n,
                "date": date(rng),
                "status": rng.choice(("active", "active", "stopped")),
                "ref": new("MedicationRequest"),
            }
            for n in some(rng, MEDICATIONS, few(6), dose)
        ]
        self.allergies = [
            {"name": n, "date": date(rng), "reaction": rng.choice(REACTIONS), "ref": new("AllergyIntolerance")}
            for n in some(rng, ALLERGENS, few(3))
        ]
        self.procedures = [
            {"name": n, "date": date(rng), "ref": new("Procedure")} for n in some(rng, PROCEDURES, few(3))
        ]
        self.vaccines = [
            {"name": n, "date": date(rng), "ref": new("Immunization")} for n in some(rng, VACCINES, few(3))
        ]
        self.visits = [{"name": n, "date": date(rng), "ref": new("Encounter")} for n in some(rng, VISITS, few(2))]
        self.notes = [
            {"name": n, "date": date(rng), "ref": new("DocumentReference")} for n in rng.sample(NOTES, few(2))
        ]
        self.observations = []
        for test in rng.sample(TESTS + VITALS, rng.randint(1, max(2, round(7 * length)))):
            days = sorted({date(rng) for _ in range(rng.choice((1, 1, 2, 3)))}, reverse=True)
            self.observations += [measure(rng, test) | {"date": d, "ref": new("Observation")} for d in days]
        rng.shuffle(self.observations)
        self.observations.sort(key=lambda o: o["date"], reverse=rng.random() < 0.8)

    def text(self) -> str:
        rng = self.rng
        line = rng.choice(
            ("- {d} {t} [{r}]", "- {d}: {t} [{r}]", "{d} {t} [{r}]", "- {d} | {t} | [{r}]", "* {t} ({d}) [{r}]")
        )
        head = rng.choice(("## {}", "{}:", "### {}", "{}"))
        upper = rng.random() < 0.2
        out = [
            f"{rng.choice(('Patient', 'Demographics'))}: {self.sex}, born {self.born}, {self.age} years [{self.patient}]"
        ]
        status = rng.choice((", {}", " ({})"))
        sections = [
            ("Conditions", [(c, c["name"] + status.format(c["status"])) for c in self.conditions]),
            ("Medications", [(m, m["name"] + status.format(m["status"])) for m in self.medications]),
            ("Allergies", [(a, f"{a['name']}: {a['reaction']}") for a in self.allergies]),
            (
                rng.choice(("Observations", "Results", "Labs and vitals")),
                [(o, self.result(o)) for o in self.observations],
            ),
            ("Procedures", [(p, p["name"]) for p in self.procedures]),
            ("Immunizations", [(v, f"{v['name']} vaccine") for v in self.vaccines]),
            ("Encounters", [(e, e["name"]) for e in self.visits]),
            ("Notes", [(n, n["name"]) for n in self.notes]),
        ]
        for title, entries in sections:
            if entries:
                out.append("\n" + head.format(title.upper() if upper else title))
                out += [line.format(d=e["date"], t=t, r=e["ref"]) for e, t in entries]
        return "\n".join((START, *out, END))

    def result(self, o: dict) -> str:
        limits = f" (ref {o['limits']})" if o["limits"] else ""
        return f"{o['name']} {o['value']} {o['unit']}{limits}" + (f" {o['flag']}" if o["flag"] else "")


def cite(entry: dict) -> str:
    return f"[{entry['ref']}]"


class RecordQuestions:
    def __init__(self, rng: random.Random, record: Record, unseen: bool = False):
        self.rng, self.record, self.unseen = rng, record, unseen

    def turn(self, key: str, answer: str, contains: list[str], entries: list[dict], trace: str, **words) -> Turn:
        expected = {"contains": contains, "cite": sorted({e["ref"] for e in entries})}
        return Turn([ask(self.rng, key, self.unseen, **words)], answer, trace, "record", expected)

    def absent(self, key: str, **words) -> Turn:
        turn = self.turn(key, ABSENT, ["not in the record"], [], "I find nothing about that in the record.\n", **words)
        turn.task = "not in record"
        return turn

    def series(self, name: str) -> list[dict]:
        return sorted((o for o in self.record.observations if o["name"] == name), key=lambda o: o["date"], reverse=True)

    def called(self, name: str) -> str:
        usual = (
            name
            if name.isupper() or name[:2].isupper() or any(c.isdigit() for c in name) or "-" in name
            else name[0].lower() + name[1:]
        )
        return self.rng.choice((usual, usual, *ALIASES.get(name, ())))

    def latest(self) -> Turn:
        o = self.series(self.rng.choice(self.record.observations)["name"])[0]
        value = f"{o['value']} {o['unit']}"
        flag = f", {o['flag']}" if o["flag"] else ""
        trace = f"Newest {o['name']}: {o['date']}.\n"
        return self.turn(
            "latest",
            f"{o['name']}: {value} on {o['date']}{flag} {cite(o)}.",
            [value, o["date"]],
            [o],
            trace,
            x=self.called(o["name"]),
        )

    def on(self) -> Turn:
        o = self.rng.choice(self.record.observations)
        value = f"{o['value']} {o['unit']}"
        return self.turn(
            "on",
            f"{o['name']}: {value} on {o['date']} {cite(o)}.",
            [value],
            [o],
            f"{o['date']}: {o['name']}.\n",
            x=self.called(o["name"]),
            d=o["date"],
        )

    def trend(self) -> Turn | None:
        names = {o["name"] for o in self.record.observations}
        several = [s for s in map(self.series, sorted(names)) if len(s) > 1 and s[0]["value"] != s[1]["value"]]
        if not several:
            return None
        new, old = self.rng.choice(several)[:2]
        verb = "rose" if float(new["value"]) > float(old["value"]) else "fell"
        # The values first, then both side by side: who has them before his eyes can compare them.
        steps = "; then ".join(f"{o['value']} {o['unit']} on {o['date']} {cite(o)}" for o in (old, new))
        verdict = f"From {old['value']} to {new['value']}, it {verb}."
        trace = f"{old['date']}: {old['value']}. {new['date']}: {new['value']}. {verdict}\n"
        turn = self.turn(
            "trend",
            f"{new['name']}: {steps}. {verdict}",
            [verdict],
            [old, new],
            trace,
            x=self.called(new["name"]),
        )
        turn.task = "trend"
        return turn

    def entry(self, key: str, entries: list[dict], said, short=lambda n: n) -> Turn:
        e = self.rng.choice(entries)
        answer, contains = said(e)
        return self.turn(key, answer, contains, [e], f"{e['name']}: {e['date']}.\n", x=short(e["name"]))

    def listing(self, key: str, entries: list[dict], said) -> Turn:
        if not entries:
            return self.absent(key)
        answer = "; ".join(f"{said(e)} {cite(e)}" for e in entries) + "."
        return self.turn(key, answer, [said(e) for e in entries], entries, f"{len(entries)} found.\n")

    def missing(self) -> Turn:
        """A question about something that the record doesn't hold."""
        r, rng = self.record, self.rng
        key = rng.choice(("latest", "latest", "medication", "condition", "allergy", "procedure", "vaccine", "on"))
        here = {
            "medication": ({drug(m["name"]) for m in r.medications}, [drug(m) for m in MEDICATIONS]),
            "condition": ({c["name"] for c in r.conditions}, CONDITIONS),
            "allergy": ({a["name"] for a in r.allergies}, ALLERGENS),
            "procedure": ({p["name"] for p in r.procedures}, PROCEDURES),
            "vaccine": ({v["name"] for v in r.vaccines}, VACCINES),
        }
        if key in here:
            taken, names = here[key]
            name = rng.choice([n for n in some(rng, names, 12) if n not in taken])
            return self.absent(key, x=name)
        taken = {o["name"] for o in r.observations}
        name = rng.choice([t[0] for t in TESTS + VITALS if t[0] not in taken])
        return self.absent(key, x=self.called(name), d=date(rng))

    def any(self) -> Turn:
        r, rng = self.record, self.rng
        if rng.random() < 0.2:
            return self.missing()
        kinds = {
            "latest": 5,
            "on": 2,
            "trend": 5,
            "conditions": 1.5,
            "medications": 1.5,
            "allergies": 1,
            "patient": 0.7,
            "abnormal": 0.7,
        }
        kinds |= {k: 2 for k, e in (("medication", r.medications), ("condition", r.conditions)) if e}
        kinds |= {
            k: 1 for k, e in (("allergy", r.allergies), ("procedure", r.procedures), ("vaccine", r.vaccines)) if e
        }
        key = rng.choices([*kinds], [*kinds.values()])[0]
        active = lambda entries: [e for e in entries if e["status"] == "active"]  # noqa: E731
        name = lambda e: e["name"]  # noqa: E731
        match key:
            case "latest":
                return self.latest()
            case "on":
                return self.on()
            case "trend":
                return self.trend() or self.latest()
            case "conditions":
                return self.listing(key, active(r.conditions), name)
            case "medications":
                return self.listing(key, active(r.medications), name)
            case "allergies":
                return self.listing(key, r.allergies, lambda e: f"{e['name']} ({e['reaction']})")
            case "abnormal":
                flagged = [o for o in r.observations if o["flag"]]
                if len(flagged) > 6:
                    return self.latest()
                return self.listing(key, flagged, lambda o: f"{o['name']} {o['value']} {o['unit']} {o['flag']}")
            case "patient":
                who = {"ref": r.patient}
                answer = f"{r.age} years old, {r.sex}, born {r.born} {cite(who)}."
                return self.turn(key, answer, [r.born, r.sex], [who], "The first line tells.\n")
            case "medication":
                return self.entry(
                    key,
                    r.medications,
                    lambda m: (
                        f"Medication: {m['name']}, {m['status']}, since {m['date']} {cite(m)}.",
                        [m["name"], m["status"]],
                    ),
                    drug,
                )
            case "condition":
                return self.entry(
                    key,
                    r.conditions,
                    lambda c: (
                        f"Condition: {c['name']}, {c['status']}, diagnosed on {c['date']} {cite(c)}.",
                        [c["date"], c["status"]],
                    ),
                )
            case "allergy":
                return self.entry(
                    key,
                    r.allergies,
                    lambda a: (f"Allergic to {a['name']}: {a['reaction']} {cite(a)}.", [a["name"], a["reaction"]]),
                )
            case "procedure":
                return self.entry(
                    key, r.procedures, lambda p: (f"Procedure: {p['name']} on {p['date']} {cite(p)}.", [p["date"]])
                )
            case _:
                return self.entry(
                    key, r.vaccines, lambda v: (f"Vaccine: {v['name']} on {v['date']} {cite(v)}.", [v["date"]])
                )


def drug(medication: str) -> str:
    """The drug's name without its dose."""
    words = medication.split(" ")
    cut = next((i for i, w in enumerate(words) if w[0].isdigit() or w == "inhaler"), len(words))
    return " ".join(words[:cut])


def record_turns(rng: random.Random, length: float, count: int, unseen: bool = False) -> list[Turn]:
    record = Record(rng, length)
    questions = RecordQuestions(rng, record, unseen)
    turns = [questions.any() for _ in range(count)]
    gap = rng.choice(("\n\n", "\n\n", "\n"))
    turns[0].parts = [record.text() + gap + turns[0].parts[0]]
    return turns


def record_conversation(rng: random.Random, length: float | None = None) -> Conversation:
    if length is None:
        length = rng.choice((0.3, 0.6, 1.0, 1.0, 1.5, 2.2))
    count = rng.choice((1, 2, 3, 4, 5, 6))
    return Conversation(record_turns(rng, length, count), system_text(rng, count))
