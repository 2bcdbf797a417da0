#!/usr/bin/env python3
"""Measures medgemma beside other engines: same machine, same files, same number of threads, by turns in one run.

    python3 benches/peers/measure.py --quick                      a first look: one file, two rounds
    python3 benches/peers/measure.py                              everything: over an hour; nothing else should run
    python3 benches/peers/measure.py --only decode --model q4_0   parts of it; the results of other parts are kept
    python3 benches/peers/measure.py --engines medgemma,llama.cpp,"llama.cpp:-fa 0"     other settings of an engine

It installs the peers from the Python package index (llama.cpp is compiled for this machine), writes models of the true
shape with random weights (10 GB; 16 GB more for the 27B) and keeps all of it in target/bench. Besides what building
medgemma needs, it wants python3 with venv. Results go to benches/results/MACHINE-peers.json, the table to stdout;
report.py puts table and picture into the documentation.
"""

import argparse
import contextlib
import datetime
import fcntl
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import machine
import report
from engines import BUILT, ROOT, Bench, Missing, Process, engine
from header import Header
from works import MMPROJ, MODELS, WORKS, Model, Work, cost, path

SLOW = 60  # seconds of a turn
HOLD = 180  # seconds after which a lock is let go for a moment
ENGINES = "medgemma,llama.cpp,mistral.rs,transformers"


def main() -> None:
    args = arguments()
    bench = Bench(args.cache.resolve(), args.threads, args.medgemma.resolve())
    engines, versions, missing = install(bench, args.engines)
    results = json.loads(args.out.read_text()) if args.out.exists() else {"results": []}
    results |= {"machine": machine.describe(), "threads": args.threads}
    results["missing"] = {**results.get("missing", {}), **missing}
    bench.compile("peaks", "-lpthread")
    for work, model in chosen(args.only, args.model):
        say(f"{work.key} {model.key}")
        try:
            measured = measure(bench, engines, work, model, args)
        except Missing as error:
            say(f"  left out: {error}")
            continue
        measured["versions"] = {key: versions[key] for key in measured["engines"]}
        keep(results, measured)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(results, indent=1) + "\n")
    print(report.tables(results))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = {"type": lambda text: text.split(","), "metavar": "NAME,…"}
    parser.add_argument("--only", **names, help=f"works: {', '.join(WORKS)}")
    parser.add_argument("--model", **names, help=f"models: {', '.join(MODELS)}")
    parser.add_argument("--engines", **names, help=f"the default is {ENGINES}")
    parser.add_argument("--rounds", type=int, help="turns of each engine (5)")
    parser.add_argument("--quick", action="store_true", help="prefill and decode of 4B Q4_0, 2 rounds")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each engine (all cores)")
    parser.add_argument("--cache", type=Path, default=ROOT / "target" / "bench", help="for models and peers")
    parser.add_argument("--medgemma", type=Path, default=BUILT, help="the program; else it is built")
    parser.add_argument("--out", type=Path, help="the results (benches/results/MACHINE-peers.json)")
    parser.add_argument("--lock", type=Path, help="a file to hold flock(2) on in each round")
    args = parser.parse_args()
    quick = {"only": ["prefill-512", "decode"], "model": ["q4_0"], "engines": ["medgemma", "llama.cpp"], "rounds": 2}
    full = {"only": list(WORKS), "model": list(MODELS), "engines": ENGINES.split(","), "rounds": 5}
    for option, value in (quick if args.quick else full).items():
        if getattr(args, option) is None:
            setattr(args, option, value)
    for given, known in ((args.only, WORKS), (args.model, MODELS)):
        for name in given:
            if name not in known:
                parser.error(f"{name} is none of {', '.join(known)}")
    args.out = args.out or ROOT / "benches" / "results" / f"{machine.slug()}-peers.json"
    return args


def install(bench: Bench, specs: list) -> tuple:
    """The engines that can be had, their versions, and why the others can't."""
    engines, versions, missing = [], {}, {}
    for one in map(engine, specs):
        try:
            one.install(bench)
            versions[one.key] = one.version(bench)
            engines.append(one)
        except Missing as error:
            missing[one.key] = str(error)
            say(f"{one.key} is left out: {error}")
    return engines, versions, missing


def chosen(works: list, models: list):
    for key in works:
        for model in WORKS[key].models:
            if model in models:
                yield WORKS[key], MODELS[model]


def prepare(bench: Bench, work: Work, model: Model) -> None:
    """Fetches or writes the files that are not there yet."""
    file, mmproj = path(model, ROOT, bench.cache), bench.cache / MMPROJ
    if not model.variant:
        if not file.exists():
            bench.run(ROOT / "scripts" / "fetch-gemma3-270m.sh")
        return
    if file.exists() and (work.kind != "image" or mmproj.exists()):
        return
    say(f"  writing {file}")
    bench.run(ROOT / "scripts" / "fetch-testdata.sh", "gemma3-tokenizer")
    file.parent.mkdir(parents=True, exist_ok=True)
    tokenizer = ROOT / "testdata" / "fetched" / "gemma3-tokenizer"
    example = ["cargo", "run", "--release", "--quiet", "-p", "medgemma-gemma", "--example", "synthetic", "--"]
    bench.run(*example, model.variant, model.target, tokenizer, file, cwd=ROOT)
    # Beside the model it would be loaded whenever the model is.
    written = file.with_name(f"mmproj-{file.name}")
    if written.exists():
        mmproj.parent.mkdir(parents=True, exist_ok=True)
        written.replace(mmproj)


def measure(bench: Bench, engines: list, work: Work, model: Model, args: argparse.Namespace) -> dict:
    """All rounds of one work on one model."""
    prepare(bench, work, model)
    commands = {one.key: one.command(bench, work, model) for one in engines}
    commands = {key: command for key, command in commands.items() if command}
    take = {"start": whole_processes, "turns": turns, "image": turns}[work.kind]
    if work.apart:
        take = apart
    runs = take(commands, args.rounds, args.lock, Watch(bench))
    header = Header.of(path(model, ROOT, bench.cache))
    mmproj = Header.of(bench.cache / MMPROJ) if work.kind == "image" else None
    measured = {
        "work": work.key,
        "model": model.key,
        "measured": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "sizes": {"prompt": work.prompt, "generate": work.generate, "depth": work.depth, "batch": work.batch},
        "cost": vars(cost(work, header, mmproj)),
        "engines": {key: summary(of) for key, of in runs.items()},
    }
    ours, theirs = (runs.get(key) for key in ("medgemma", "llama.cpp"))
    if ours and theirs:
        # Of neighbouring turns, which what else the machine does slows down alike.
        pairs = zip(seconds(theirs), seconds(ours))
        measured["ratio_to_llama_cpp"] = statistics.median(they / we for they, we in pairs)
        say(f"  {measured['ratio_to_llama_cpp']:.2f} times llama.cpp")
    return measured


def turns(commands: dict, rounds: int, lock: Path | None, watch: "Watch") -> dict:
    """Every engine's process waits while another's runs; each starts, and reads what stands before the prompt, once."""
    processes, runs = {}, {}
    try:
        for key, command in commands.items():
            with hold(lock, shared=True):
                try:
                    processes[key] = Process(command)
                    runs[key] = [processes[key].line()]
                except Missing as error:
                    if key in ("medgemma", "llama.cpp"):
                        raise
                    say(f"  without {key}: {error}")
                    processes.pop(key, None)
        done = 0
        while done < rounds:
            with hold(lock):
                watch.begin()
                until = time.monotonic() + HOLD
                while done < rounds and time.monotonic() < until:
                    done += 1
                    for key, process in processes.items():
                        # What is far slower than the rest shows that in one turn.
                        if len(runs[key]) == 1 or seconds(runs[key])[-1] < SLOW:
                            runs[key].append(watch.over(process.turn))
        for process in processes.values():
            process.end()
    finally:
        for process in processes.values():
            process.kill()
    return runs


def apart(commands: dict, rounds: int, lock: Path | None, watch: "Watch") -> dict:
    """One process at a time, since the models don't fit into memory together: a fresh one in each round."""
    runs = {key: [] for key in commands}
    for _ in range(rounds):
        for key, command in commands.items():
            with hold(lock):
                process = Process(command)
                try:
                    ready = process.line()
                    watch.begin()
                    runs[key] = [ready, *runs[key][1:], watch.over(process.turn)]
                    process.end()
                finally:
                    process.kill()
    return runs


def whole_processes(commands: dict, rounds: int, lock: Path | None, watch: "Watch") -> dict:
    """From the start of a process to its end."""
    runs = {key: [{}] for key in commands}
    for round_ in range(rounds + 1):
        with hold(lock):
            watch.begin()
            for key, command in commands.items():
                took = watch.over(lambda command=command: whole_process(command))
                # The first one brings the files into the page cache.
                if round_:
                    runs[key].append(took)
    return runs


def whole_process(command: list) -> dict:
    begun = time.perf_counter()
    arguments = [str(part) for part in command]
    done = subprocess.run(arguments, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    took = time.perf_counter() - begun
    if done.returncode:
        raise Missing(f"{arguments[0]} failed: {done.stderr.strip().splitlines()[-1:]}")
    return {"process_seconds": took}


class Watch:
    """Measures what the machine can before and after each turn: on a virtual one that changes with its neighbours."""

    def __init__(self, bench: Bench):
        self.bench, self.last = bench, {}

    def look(self) -> dict:
        return json.loads(self.bench.run(self.bench.cache / "bin" / "peaks", self.bench.threads))

    def begin(self) -> None:
        self.last = self.look()

    def over(self, turn) -> dict:
        """A turn, with the higher of the peaks around it."""
        took, before = turn(), self.last
        self.last = self.look()
        highest = {key: max(before[key], peak) for key, peak in self.last.items()}
        return {**took, "peaks": highest}


def seconds(runs: list) -> list:
    """What each turn took; the first entry is what was said when the process was ready."""
    parts = ("prompt_seconds", "generate_seconds", "image_seconds", "process_seconds")
    return [sum(run.get(part) or 0 for part in parts) for run in runs[1:]]


def summary(runs: list) -> dict:
    took = seconds(runs)
    said = {"load_seconds": runs[0].get("load_seconds"), "peak_memory_bytes": runs[-1].get("peak_memory_bytes")}
    said["peaks"] = [run["peaks"] for run in runs[1:]]
    spread = {"median": statistics.median(took), "least": min(took), "most": max(took), "runs": took}
    return {"seconds": spread, **{key: value for key, value in said.items() if value}}


def keep(results: dict, measured: dict) -> None:
    """Puts a result in the place of an older one of the same work."""
    places = [(work.key, model) for work in WORKS.values() for model in work.models]
    place = (measured["work"], measured["model"])
    others = [old for old in results["results"] if (old["work"], old["model"]) != place]
    results["results"] = sorted([*others, measured], key=lambda one: places.index((one["work"], one["model"])))


@contextlib.contextmanager
def hold(lock: Path | None, shared: bool = False):
    """Keeps others that respect the same lock from running meanwhile."""
    if lock is None:
        yield
        return
    with open(lock, "a") as file:
        fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main()
    except Missing as error:
        raise SystemExit(f"measure: {error}") from None
