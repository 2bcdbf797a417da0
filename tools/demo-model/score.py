"""Whether an answer is right. Rules that need nothing but the reply's text and the case's `expected`."""

import json
import math
import re

OPEN, CLOSE = "<unused94>", "<unused95>"


def split_thought(reply: str) -> tuple[str | None, str, bool]:
    """The thought (None without one), the answer, and whether the reply is well-formed."""
    if not reply.startswith(OPEN):
        return None, reply, OPEN not in reply and CLOSE not in reply
    thought, mark, answer = reply[len(OPEN) :].partition(CLOSE)
    fine = (
        bool(mark)
        and thought.startswith("thought\n")
        and answer.strip() != ""
        and CLOSE not in answer
        and OPEN not in thought + answer
    )
    return thought.removeprefix("thought\n"), answer, fine


def short_answer(answer: str, options: list[str]) -> str:
    """What stands after the last "Final Answer:"; else the one option that the answer names, or its first word."""
    if "Final Answer:" in answer:
        return answer.rsplit("Final Answer:", 1)[1].strip().strip(".").lower()
    words = re.findall(r"[a-z]+", answer.lower())
    named = [o for o in options if o in words]
    if len(named) == 1:
        return named[0]
    return "none" if answer.startswith("There is no") else words[0] if words else ""


def boxes_in(answer: str) -> list[dict]:
    """The last JSON list of objects in the answer."""
    for start in [m.start() for m in re.finditer(r"\[(?=\s*[{\]])", answer)][::-1]:
        try:
            value, _ = json.JSONDecoder().raw_decode(answer[start:])
        except ValueError:
            continue
        if all(isinstance(v, dict) and isinstance(v.get("box_2d"), list) and len(v["box_2d"]) == 4 for v in value):
            return value
    return []


def iou(a: list[float], b: list[float]) -> float:
    height, width = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(height, 0) * max(width, 0)
    area = lambda x: max(x[2] - x[0], 0) * max(x[3] - x[1], 0)  # noqa: E731
    return both / max(area(a) + area(b) - both, 1e-9)


def citations(answer: str) -> list[str]:
    return sorted(set(re.findall(r"\[([A-Za-z]+/[A-Za-z0-9.\-]+)\]", answer)))


def json_in(answer: str):
    start = answer.find("[")
    try:
        return json.JSONDecoder().raw_decode(answer[start:])[0] if start >= 0 else None
    except ValueError:
        return None


def right(expected: dict, answer: str) -> tuple[bool, float | None]:
    """Whether the answer is right, and the mean IoU where boxes are asked for (right: each at least 0.5)."""
    if "boxes" in expected:
        wanted, got = expected["boxes"], boxes_in(answer)
        if not wanted:
            return not got, None
        scores = [
            max([iou(w["box_2d"], g["box_2d"]) for g in got if g.get("label") == w["label"]], default=0.0)
            for w in wanted
        ]
        return len(got) == len(wanted) and min(scores) >= 0.5, sum(scores) / len(scores)
    if "letter" in expected:
        found = re.findall(r"(?:Final Answer|The most likely diagnosis is): \(?([A-E])\b", answer)
        return bool(found) and found[-1] == expected["letter"], None
    if "impression" in expected:
        return answer.rsplit("IMPRESSION:\n", 1)[-1].strip() == expected["impression"], None
    if "slices" in expected:
        text = answer.rsplit("Final Answer:", 1)[-1]
        return [int(n) for n in re.findall(r"\d+", text)] == expected["slices"], None
    if "json" in expected:
        return json_in(answer) == expected["json"], None
    if "text" in expected:
        return answer.strip() == expected["text"], None
    if "contains" in expected:
        cited = "cite" not in expected or citations(answer) == expected["cite"]
        return cited and all(c in answer for c in expected["contains"]), None
    return short_answer(answer, expected.get("options", [])) == expected["answer"], None


def score(expected: dict, reply: str) -> dict:
    thought, answer, fine = split_thought(reply)
    ok, overlap = right(expected, answer)
    out = {"right": ok, "thinking": fine and (thought is not None) == expected["thinks"]}
    return out | ({"iou": round(overlap, 4)} if overlap is not None else {})


def wilson(hits: int, count: int) -> tuple[float, float]:
    """95 % interval of a proportion."""
    if count == 0:
        return 0.0, 1.0
    z, p = 1.959964, hits / count
    middle, spread = p + z * z / (2 * count), z * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    return (middle - spread) / (1 + z * z / count), (middle + spread) / (1 + z * z / count)


def median(values: list[float]) -> float:
    values = sorted(values)
    half = len(values) // 2
    return values[half] if len(values) % 2 else (values[half - 1] + values[half]) / 2


def table(scored: list[tuple[str, dict]]) -> dict[str, dict]:
    """Per task: cases, right, interval, median IoU; and how often thinking is as it should be."""
    out: dict[str, dict] = {}
    groups: dict[str, list[dict]] = {}
    for task, s in scored:
        groups.setdefault(task, []).append(s)
    groups["thinking"] = [{"right": s["thinking"]} for _, s in scored]
    for task, rows in groups.items():
        hits = sum(r["right"] for r in rows)
        low, high = wilson(hits, len(rows))
        out[task] = {
            "cases": len(rows),
            "right": hits,
            "share": round(hits / len(rows), 4),
            "low": round(low, 4),
            "high": round(high, 4),
        }
        overlaps = [r["iou"] for r in rows if "iou" in r]
        if overlaps:
            out[task]["median iou"] = round(median(overlaps), 4)
    return out
