"""Writes demo-model/goldens.json: what transformers does in float32 with the shipped files' values.

    python goldens.py ../../demo-model

The form is that of testdata's goldens (testdata/README.md); images are files of heldout/images, and every case ends
with the end of the turn.
"""

import json
import pathlib
import sys
import tempfile

import torch

import export  # finds tools/goldens
import reference  # isort: skip

# One of each kind of question, short ones: every step is a whole pass.
TASKS = (
    "presence", "side", "box", "change", "slices", "skin", "record", "not in record", "choice", "talk",
)  # fmt: skip
STEPS = 120


class Longer(reference.Reference):
    """Answers to their end."""

    def greedy(self, inputs: dict, stop: bool, steps: int = STEPS) -> dict:
        return super().greedy(inputs, True, steps)


def main() -> None:
    folder = pathlib.Path(sys.argv[1])
    heldout = folder / "heldout"
    reference.TESTDATA = heldout  # where `images` are
    made: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as work:
        checkpoint = pathlib.Path(work)
        export.hugging_face(checkpoint, export.read_pair(folder), torch.float32)
        ref = Longer(checkpoint)
        cases = [json.loads(line) for line in open(heldout / "cases.jsonl")]
        for task in TASKS:
            several = sorted((c for c in cases if c["task"] == task), key=lambda c: len(str(c["messages"])))
            # A short case of each, and one whose system text asks to think where there is one.
            for case in sorted(several[: len(several) // 2 + 1], key=lambda c: -c["expected"]["thinks"]):
                try:
                    made[task] = ref.run({"name": case["id"], "messages": case["messages"], "stop": True})
                except reference.CloseCall:
                    continue
                print(case["id"], len(made[task]["input_ids"]), made[task]["reply"][-60:], flush=True)
                break
    head = {"checkpoint": [export.TEXT_FILE, export.VISION_FILE]}
    reference.write(folder / "goldens.json", head, list(made.values()))


if __name__ == "__main__":
    main()
