"""Draws the curves of training runs: `python curves.py OUT.png RUN/log.json [RUN2/log.json]`, runs side by side."""

import json
import sys

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

SHOWN = ("presence", "side", "box", "record", "choice", "lab", "trend", "rephrased")


def main() -> None:
    logs = [json.load(open(f)) for f in sys.argv[2:]]
    figure, axes = plt.subplots(2, len(logs), figsize=(5 * len(logs), 6), squeeze=False)
    for i, log in enumerate(logs):
        step, _, words, aux, _ = zip(*log["losses"], strict=True)
        top, bottom = axes[0][i], axes[1][i]
        top.semilogy(step, words, label="words")
        top.semilogy(step, aux, label="auxiliary")
        top.set(title=f"stage {i + 1}: loss", xlabel="step")
        top.legend()
        for task in SHOWN:
            exams = [(e["step"], 100 * e["tasks"][task]["share"]) for e in log["exams"]]
            bottom.plot(*zip(*exams, strict=True), marker="o", markersize=3, label=task)
        bottom.set(title="held out, 9 cases a task: % right", xlabel="step", ylim=(-3, 103))
        bottom.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(sys.argv[1], dpi=80)


if __name__ == "__main__":
    main()
