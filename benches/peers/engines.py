"""The engines: how each is installed, and how a process of it is started for a work on a model.

A process for a work of kind "turns" or "image" speaks the protocol of `medgemma bench --turns`: it prints a line of
JSON when it is ready, then for each line on stdin it runs once and prints a line of JSON with what that took.
"""

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from works import MMPROJ, Model, Work, path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
REQUIREMENTS = HERE / "requirements.txt"
BUILT = ROOT / "target" / "release" / "medgemma"

# Arguments of llama.c where others than its defaults were faster, by work and model. Weights that aren't repacked are
# used from the mapped file, which starts sooner; and prompts in K-quants go through other kernels, which are faster.
LLAMA_SETTINGS = {
    ("prefill-512", "q4_k_m"): ["-repack", 0],
    ("prefill-2048", "q4_k_m"): ["-repack", 0],
    ("prefill-512-at-16k", "q4_k_m"): ["-repack", 0],
    ("start", "q4_0"): ["-repack", 0],
    ("first-start", "q4_0"): ["-repack", 0],
}


class Missing(Exception):
    """An engine or file can't be had here."""


@dataclass
class Bench:
    """Where things are, and how much of the machine is used."""

    cache: Path
    threads: int
    medgemma: Path
    python: Path = field(init=False)

    def __post_init__(self):
        # What medgemma keeps of packed weights goes with the rest.
        os.environ["MEDGEMMA_PACK_CACHE"] = str(self.cache / "packed")
        self.python = self.cache / "venv" / "bin" / "python"

    def run(self, *command, **options) -> str:
        """Runs a command and gives its output; says what failed."""
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
        if done.returncode:
            tail = (done.stderr or done.stdout).strip().splitlines()[-3:]
            raise Missing(f"{Path(str(command[0])).name} failed: {' '.join(tail)}")
        return done.stdout

    def pip(self, package: str, *options: str, **env: str) -> None:
        """Installs a package in the version that requirements.txt pins, unless it is there."""
        wanted = next(line for line in REQUIREMENTS.read_text().splitlines() if line.split("==")[0] == package)
        if not self.python.exists():
            self.run(sys.executable, "-m", "venv", self.cache / "venv")
        with contextlib.suppress(Missing):
            if f"{package}=={self.version(package)}" == wanted:
                return
        self.run(self.python, "-m", "pip", "install", "--quiet", wanted, *options, env={**os.environ, **env})

    def version(self, package: str) -> str:
        code = f"import importlib.metadata as m; print(m.version({package!r}))"
        return self.run(self.python, "-c", code).strip()

    def compile(self, name: str, *options: str) -> Path:
        """Compiles a C file of this folder."""
        out = self.cache / "bin" / name
        out.parent.mkdir(parents=True, exist_ok=True)
        self.run(os.environ.get("CC", "cc"), "-O3", "-march=native", "-o", out, HERE / f"{name}.c", *options)
        return out


class Medgemma:
    def __init__(self, settings: str = ""):
        self.key = "medgemma" + (f":{settings}" if settings else "")
        self.settings = settings.split()

    def install(self, bench: Bench) -> None:
        if bench.medgemma == BUILT:
            bench.run("cargo", "build", "--release", "--quiet", cwd=ROOT)
        if not bench.medgemma.exists():
            raise Missing(f"{bench.medgemma} isn't there")

    def version(self, bench: Bench) -> str:
        version = bench.run(bench.medgemma, "--version").strip()
        if bench.medgemma != BUILT:
            return version
        return f"{version}, {bench.run('git', '-C', ROOT, 'describe', '--always', '--dirty', '--exclude=*').strip()}"

    def command(self, bench: Bench, work: Work, model: Model) -> list:
        file = path(model, ROOT, bench.cache)
        if work.kind == "start":
            ask = ["run", file, question(work), "--max-tokens", 1, "--plain", "--threads", bench.threads]
            return [bench.medgemma, "--quiet", *ask, *work.ours, *self.settings]
        sizes = ["-p", work.prompt, "-n", work.generate, "-d", work.depth, "--batch", work.batch]
        image = ["--image", "--mmproj", bench.cache / MMPROJ] if work.kind == "image" else []
        threads = ["--threads", bench.threads]
        return [bench.medgemma, "--quiet", "bench", file, *sizes, *image, *threads, "--turns", *self.settings]


class Llama:
    """llama.cpp through its C API (llama.c), as built natively by the package llama-cpp-python."""

    def __init__(self, settings: str = ""):
        self.key = "llama.cpp" + (f":{settings}" if settings else "")
        self.settings = settings.split()

    def install(self, bench: Bench) -> None:
        # Its products by AMX end with an illegal instruction (0.3.36, seen on the Intel machine in benches/results).
        without_amx = '"-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"'
        flags = f"-DGGML_NATIVE=ON -DCMAKE_C_FLAGS={without_amx} -DCMAKE_CXX_FLAGS={without_amx}"
        bench.pip("llama-cpp-python", "--no-binary=llama-cpp-python", CMAKE_ARGS=flags)
        site = bench.run(bench.python, "-c", "import sysconfig; print(sysconfig.get_path('platlib'))").strip()
        lib = f"{site}/llama_cpp/lib"
        libraries = ["-lmtmd", "-lllama", "-lggml", "-lggml-base", "-lggml-cpu"]
        bench.compile("llama", f"-I{site}/include", f"-L{lib}", f"-Wl,-rpath,{lib}", *libraries)

    def version(self, bench: Bench) -> str:
        code = "import llama_cpp; print(llama_cpp.llama_print_system_info().decode())"
        has = [word.split("=")[0].strip() for word in bench.run(bench.python, "-c", code).split("|") if "= 1" in word]
        return f"llama-cpp-python {bench.version('llama-cpp-python')} ({', '.join(has).removeprefix('CPU : ')})"

    def command(self, bench: Bench, work: Work, model: Model) -> list:
        best = LLAMA_SETTINGS.get((work.key, model.key), [])
        common = [bench.cache / "bin" / "llama", path(model, ROOT, bench.cache), "-t", bench.threads]
        common += self.settings or best
        if work.kind == "image":
            return [*common, "-mmproj", bench.cache / MMPROJ]
        if work.kind == "start":
            turn = f"<start_of_turn>user\n{question(work)}<end_of_turn>\n<start_of_turn>model\n"
            return [*common, "-first", turn]
        return [*common, "-p", work.prompt, "-n", work.generate, "-d", work.depth, "-b", work.batch]


class InPython:
    """An engine whose process is one of the Python scripts beside this file."""

    def __init__(self, key: str, script: str, packages: list):
        self.key, self.script, self.packages = key, script, packages

    def install(self, bench: Bench) -> None:
        for package in self.packages:
            bench.pip(package)

    def version(self, bench: Bench) -> str:
        return ", ".join(f"{package} {bench.version(package)}" for package in self.packages)

    def command(self, bench: Bench, work: Work, model: Model) -> list | None:
        if not work.peers:
            return None
        file = path(model, ROOT, bench.cache)
        return [bench.python, HERE / self.script, file, work.prompt, work.generate, bench.threads]


def engine(spec: str):
    """By its name; `llama.cpp:-fa 0` or `medgemma:--no-pack-cache` is one with other settings."""
    name, _, settings = spec.partition(":")
    match name:
        case "medgemma":
            return Medgemma(settings)
        case "llama.cpp":
            return Llama(settings)
        case "mistral.rs":
            return InPython(name, "peer_mistralrs.py", ["mistralrs"])
        case "transformers":
            return InPython(name, "peer_transformers.py", ["torch", "transformers"])
    raise SystemExit(f"no engine is called {name}: medgemma, llama.cpp, mistral.rs, transformers")


def question(work: Work) -> str:
    """A text that is `work.prompt` tokens long with the chat template around it, which takes nine."""
    return " ".join(["the"] * (work.prompt - 9))


class Process:
    """An engine's process that waits for its turn."""

    def __init__(self, command: list):
        command = [str(part) for part in command]
        self.name = Path(command[0]).name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def line(self) -> dict:
        """The next line of JSON; other lines are an engine's chatter."""
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise Missing(f"{self.name} ended with status {self.process.wait()}")

    def turn(self) -> dict:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.line()

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
