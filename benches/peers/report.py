#!/usr/bin/env python3
"""Tables and a roofline picture of what measure.py found.

    target/bench/venv/bin/python benches/peers/report.py benches/results/MACHINE-peers.json --docs docs/performance.md

puts the tables between that file's markers for the machine and draws the picture beside it (which needs matplotlib).
Without --docs the tables are printed.
"""

import argparse
import json
import operator
import statistics
from pathlib import Path

from works import WORKS, Cost, floor

NAMES = {
    "prefill-512": "prefill 512",
    "prefill-512-270m": "prefill 512",
    "prefill-2048": "prefill 2048",
    "prefill-512-at-16k": "prefill 512 at depth 16,384",
    "decode": "decode 64",
    "decode-270m": "decode 64",
    "decode-at-4096": "decode 64 at depth 4,096",
    "batch-8": "decode, 8 together",
    "image": "one image, 896×896",
    "start": "process start to first token, prompt of 32",
    "first-start": "the same, nothing kept of an earlier start",
    "27b-prefill": "prefill 512",
    "27b-decode": "decode 32",
}
MODELS = {"q4_0": "4B Q4_0", "q4_k_m": "4B Q4_K_M", "q8_0": "4B Q8_0", "270m": "270M Q4_K_M", "27b": "27B Q4_0"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--docs", type=Path, help="a Markdown file with the markers")
    args = parser.parse_args()
    results = json.loads(args.results.read_text())
    if not args.docs:
        print(tables(results))
        return
    picture = args.docs.with_name(f"{results['machine']['name']}-roofline.png")
    draw(results, picture)
    begin, end = (f"<!-- {results['machine']['name']}: {word} -->" for word in ("begin", "end"))
    head, _, rest = args.docs.read_text().partition(begin)
    _, found, tail = rest.partition(end)
    if not found:
        raise SystemExit(f"{args.docs} lacks the markers {begin} and {end}")
    alt = "Roofline: operations a second over operations a byte"
    text = f"{head}{begin}\n\n{tables(results)}\n\n![{alt}]({picture.name})\n\n{end}{tail}"
    args.docs.write_text(text)


def amount(result: dict) -> float:
    """Tokens of a run; for an image or a start 0, where the seconds themselves are told."""
    if WORKS[result["work"]].kind != "turns":
        return 0
    sizes = result["sizes"]
    return sizes["batch"] * (sizes["prompt"] + sizes["generate"])


def speed(result: dict, seconds: float) -> str:
    tokens = amount(result)
    if not tokens:
        return f"{seconds:.2f} s"
    value = tokens / seconds
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def tables(results: dict) -> str:
    return "\n\n".join([about(results), speeds(results), memory(results)])


def about(results: dict) -> str:
    machine = results["machine"]
    virtual = "virtual machine with " if machine["hypervisor"] else ""
    cpu = f"{virtual}{machine['cores']} cores of {machine['cpu']} ({', '.join(machine['isa'])})"
    memory = f"{machine['memory_bytes'] / 2**30:.0f} GiB"
    read, int8 = between(results, "read_bytes", 1e9, 1), between(results, "int8_ops", 1e12, 2)
    peaks = f"{read} GB/s read, {int8}·10¹² operations a second in 8-bit products, "
    peaks += f"{between(results, 'float_ops', 1e12, 2)}·10¹² in floats"
    lines = [
        f"Machine: {cpu}, {memory}; {results['threads']} threads for every engine.",
        f"Peaks measured between the turns: {peaks}.",
        "",
    ]
    versions = {}
    for result in results["results"]:
        for key, version in result["versions"].items():
            versions.setdefault(key, [])
            if version not in versions[key]:
                versions[key].append(version)
    lines += [f"- {key}: {'; '.join(found)}" for key, found in versions.items()]
    lines += [f"- {key}: not measured: {why}" for key, why in results.get("missing", {}).items() if key not in versions]
    return "\n".join(lines)


def between(results: dict, peak: str, unit: float, digits: int) -> str:
    """From the least to the most of a peak over all results."""
    values = [each[peak] / unit for each in all_peaks(results)]
    return f"{min(values):.{digits}f} to {max(values):.{digits}f}"


def all_peaks(results: dict) -> list:
    return [peaks for result in results["results"] for one in result["engines"].values() for peaks in one["peaks"]]


def speeds(results: dict) -> str:
    engines = list(dict.fromkeys(key for result in results["results"] for key in result["engines"]))
    others = [key for key in engines if key not in ("medgemma", "llama.cpp")]
    head = ["work", "model", "medgemma", "llama.cpp", "ratio", "goal", *others, "limit", "of the limit"]
    rows = [head, ["---"] * len(head)]
    for result in results["results"]:
        work = WORKS[result["work"]]
        cells = [NAMES[work.key], MODELS[result["model"]]]
        found = {key: speed(result, one["seconds"]["median"]) for key, one in result["engines"].items()}
        ratio = result.get("ratio_to_llama_cpp")
        cells += [found.get("medgemma", "–"), found.get("llama.cpp", "–"), f"{ratio:.2f}" if ratio else "–"]
        cells += [f"≥ {work.goal}" if work.goal else "", *(found.get(key, "–") for key in others)]
        # Turn by turn, as what the machine can changes.
        ours = result["engines"].get("medgemma") or next(iter(result["engines"].values()))
        least = [floor(Cost(**result["cost"]), peaks) for peaks in ours["peaks"]]
        reached = statistics.median(map(operator.truediv, least, ours["seconds"]["runs"]))
        cells += [speed(result, statistics.median(least)), f"{reached:.0%}"]
        rows.append(cells)
    return "Tokens a second, or seconds where it says so:\n\n" + markdown(rows)


def memory(results: dict) -> str:
    rows = [["work", "model", "engine", "load", "most memory held"], ["---"] * 5]
    for result in results["results"]:
        if result["work"] not in ("decode", "decode-270m", "image", "27b-decode"):
            continue
        for key, one in result["engines"].items():
            load, peak = one.get("load_seconds"), one.get("peak_memory_bytes")
            cells = [f"{load:.1f} s" if load else "–", f"{peak / 1e9:.2f} GB" if peak else "–"]
            rows.append([NAMES[result["work"]], MODELS[result["model"]], key, *cells])
    return "Time to load, and most memory held (with mapped pages of the file):\n\n" + markdown(rows)


def markdown(rows: list) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def draw(results: dict, out: Path) -> None:
    """Each work where its operations a byte put it, as high as the operations a second that each engine reached; above
    it the highest peaks that were measured."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    each = all_peaks(results)
    peaks = {key: max(peaks[key] for peaks in each) for key in each[0]}
    figure, axes = plt.subplots(figsize=(11.5, 6.2), dpi=130)
    x = [2.0 ** (eighth / 8) for eighth in range(0, 8 * 14)]
    slowest = min(peaks["read_bytes"] for peaks in each)
    # A peak and what reached it.
    int8 = max((one["int8_ops"], one["int8"]) for one in each)
    floats = max((one["float_ops"], one["floats"]) for one in each)
    for (roof, name), style in ((int8, "-"), (floats, "--")):
        axes.plot(
            x,
            [min(roof, at * peaks["read_bytes"]) / 1e9 for at in x],
            "k" + style,
            lw=1.2,
            label=f"most measured: {name}",
        )
    axes.plot(x, [min(peaks["int8_ops"], at * slowest) / 1e9 for at in x], "k:", lw=1, label="least bandwidth measured")
    markers = {"medgemma": ("o", "tab:blue"), "llama.cpp": ("s", "tab:orange"), "mistral.rs": ("^", "tab:green")}
    seen, works = set(), []
    for number, result in enumerate(results["results"], 1):
        cost = Cost(**result["cost"])
        at = cost.operations / cost.bytes
        for key, (marker, colour) in markers.items():
            if key not in result["engines"]:
                continue
            reached = cost.operations / result["engines"][key]["seconds"]["median"] / 1e9
            label = None if key in seen else key
            seen.add(key)
            axes.plot([at], [reached], marker, color=colour, ms=9 if marker == "o" else 6, mfc=colour if marker == "o" else "none", label=label)
            if key == "medgemma":
                # Points lie close together: numbers fit among them, and names stand beside the picture.
                axes.annotate(f"{number}", (at, reached), ha="center", va="center", fontsize=5, color="white")
                works.append(f"{number:2}  {NAMES[result['work']]}, {MODELS[result['model']]}")
    axes.set(xscale="log", yscale="log", xlabel="operations for each byte read (weights once, cache)")
    axes.set(ylabel="10⁹ operations a second", title=f"{results['machine']['name']}, {results['threads']} threads")
    axes.grid(True, which="both", lw=0.3)
    axes.legend(loc="lower right", fontsize=8)
    figure.tight_layout(rect=(0, 0, 0.745, 1))
    figure.text(0.75, 0.93, "\n".join(works), fontsize=6.5, va="top", linespacing=1.6)
    figure.savefig(out)


if __name__ == "__main__":
    main()
