#!/usr/bin/env python3
"""Clients at once against `medgemma serve` and llama.cpp's llama-server, on one file, on this machine.

    python3 benches/load/load.py MODEL.gguf --llama-server PATH --out FILE.json [--append]

Both servers are started with the same room: --parallel requests together, --context tokens each, the same threads. Each
point is measured in turn, one server after the other, the idle one stopped by a signal; so whatever else the machine
does meets both. N clients each ask one request after another, streamed, until all of the point's requests are done.
A prompt is --prompt tokens of random words, another one each time, so that no server knows any of it; answers have
--generate tokens, whatever the model would say (ignore_eos), drawn at temperature 1.

Of each point: tokens of answers a second, all clients together; time to the first token and between tokens, at the 50th
and 95th percentile; and how much of the processor others took meanwhile. A point that they disturbed is measured again,
a few times. --append adds a round to a file that an earlier call wrote: medians are of all rounds.
"""

import argparse
import asyncio
import json
import os
import pathlib
import random
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "peers"))
import machine  # noqa: E402

# The share of the processor that others may take during a point, and how often it is tried.
DISTURBED = 0.1
TRIES = 3
WORDS = "heart lung right left small large normal mild no with of the and pain fever blood test high low value".split()


class Server:
    """A server that listens on a port of its own, stopped while it isn't measured."""

    def __init__(self, name: str, command: list[str], port: int):
        self.name, self.port = name, port
        self.log = open(f"/tmp/load-{name}-{port}.log", "w")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        for _ in range(1200):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
                    if answer.status == 200:
                        break
            except OSError:
                pass
            if self.process.poll() is not None:
                raise SystemExit(f"{name} ended: see {self.log.name}")
            time.sleep(0.1)
        self.process.send_signal(signal.SIGSTOP)

    def __enter__(self):
        self.process.send_signal(signal.SIGCONT)

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGSTOP)

    def cpu(self) -> float:
        """Seconds that it has computed."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        self.process.wait()


def busy() -> tuple[float, float]:
    """Seconds that the machine's processors have computed, and that there were in all; what a hypervisor took, too."""
    fields = pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    user, nice, system, idle, wait, irq, soft, steal = (int(field) / os.sysconf("SC_CLK_TCK") for field in fields)
    computed = user + nice + system + irq + soft + steal
    return computed, computed + idle + wait


def measure(server: Server, clients: int, requests: int, seed: str, args) -> dict:
    """A point, again where others disturbed it."""
    best = None
    for attempt in range(TRIES):
        own, (computed, total) = server.cpu() + sum(os.times()[:2]), busy()
        with server:
            # Each try has prompts of its own: the server knows the others by now.
            draw = random.Random(f"{seed} {attempt}")
            found = asyncio.run(point(server.port, clients, requests, draw, args))
        own_after, (computed_after, total_after) = server.cpu() + sum(os.times()[:2]), busy()
        found["others_share"] = max(0.0, (computed_after - computed) - (own_after - own)) / (total_after - total)
        if best is None or found["others_share"] < best["others_share"]:
            best = found
        if best["others_share"] <= DISTURBED:
            break
        print(f"  others took {found['others_share']:.0%} of the processor", file=sys.stderr, flush=True)
    return best


def free_port() -> int:
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return it.getsockname()[1]


async def ask(port: int, body: dict) -> dict:
    """One streamed request: when each piece of text came, and the tokens that the server counts."""
    data = json.dumps(body).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    )
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    writer.write(head.encode() + data)
    status = await reader.readline()
    if b" 200 " not in status:
        raise SystemExit(f"{status!r}: {(await reader.read())[:500]!r}")
    times, usage = [], None
    async for line in reader:
        # Lines of chunked lengths stand between the events.
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        if event.get("choices") and event["choices"][0].get("text"):
            times.append(time.perf_counter())
        usage = event.get("usage") or usage
    writer.close()
    if usage is None:
        raise SystemExit("an answer without usage")
    # One of tokens that have no text is known when it ends.
    times = times or [time.perf_counter()]
    return {
        "first": times[0] - began,
        "gaps": [later - before for before, later in zip(times, times[1:])],
        "prompt": usage["prompt_tokens"],
        "tokens": usage["completion_tokens"],
    }


async def point(port: int, clients: int, requests: int, draw: random.Random, args) -> dict:
    """`requests` requests by `clients` clients."""
    bodies = [
        {
            "prompt": " ".join(draw.choice(WORDS) for _ in range(args.prompt)),
            "max_tokens": args.generate,
            "temperature": 1.0,
            "top_k": 64,
            "top_p": 0.95,
            "min_p": 0.0,
            "seed": draw.randrange(1 << 31),
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        for _ in range(requests)
    ]
    answers = []

    async def client():
        while bodies:
            answers.append(await ask(port, bodies.pop()))

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    wall = time.perf_counter() - began
    firsts = [answer["first"] for answer in answers]
    gaps = [gap for answer in answers for gap in answer["gaps"]]
    return {
        "tokens_per_second": sum(answer["tokens"] for answer in answers) / wall,
        "tokens": sum(answer["tokens"] for answer in answers),
        "prompt_tokens": sum(answer["prompt"] for answer in answers),
        "wall_s": wall,
        "ttft_p50_s": percentile(firsts, 50),
        "ttft_p95_s": percentile(firsts, 95),
        "gap_p50_s": percentile(gaps, 50),
        "gap_p95_s": percentile(gaps, 95),
    }


def percentile(values: list[float], percent: int) -> float:
    values = sorted(values)
    return values[min(len(values) - 1, len(values) * percent // 100)]


def table(record: dict) -> str:
    """The medians of all rounds, and how the first server compares with the second."""
    lines = ["| clients | server | tok/s | TTFT p50 / p95, s | between tokens p50 / p95, ms | tok/s to peer |", "|---|---|---|---|---|---|"]
    for clients in record["clients"]:
        middle = {}
        for name in record["servers"]:
            rounds = [entry[name][str(clients)] for entry in record["rounds"]]
            middle[name] = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        for name, one in middle.items():
            other = [value for key, value in middle.items() if key != name]
            ratio = f"{one['tokens_per_second'] / other[0]['tokens_per_second']:.2f}" if other else ""
            lines.append(
                f"| {clients} | {name} | {one['tokens_per_second']:.1f} | {one['ttft_p50_s']:.2f} / {one['ttft_p95_s']:.2f} "
                f"| {one['gap_p50_s'] * 1e3:.0f} / {one['gap_p95_s'] * 1e3:.0f} | {ratio} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a GGUF file, or `demo` without a peer")
    parser.add_argument("--medgemma", default="target/release/medgemma")
    parser.add_argument("--llama-server", help="left out: medgemma alone")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--each", type=int, default=2, help="requests of each client at a point")
    parser.add_argument("--most", type=int, default=96, help="most requests at a point, but one of each client at least")
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--generate", type=int, default=64)
    parser.add_argument("--parallel", type=int, default=64)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt-tokens", type=int, help="medgemma's tokens of prompts in a step; else its default")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--append", action="store_true")
    args = parser.parse_args()

    ports = [free_port(), free_port()]
    servers = [
        Server(
            "medgemma",
            [args.medgemma, "serve", args.model, "--port", str(ports[0]), "--device", "cpu", "--threads", str(args.threads),
             "--context", str(args.context), "--conversations", str(args.parallel), "--running", str(args.parallel), "--queue", "256",
             *(["--prompt-tokens", str(args.prompt_tokens)] if args.prompt_tokens else [])],
            ports[0],
        )
    ]
    if args.llama_server:
        servers.append(
            Server(
                "llama-server",
                [args.llama_server, "-m", args.model, "--host", "127.0.0.1", "--port", str(ports[1]), "-t", str(args.threads),
                 "-tb", str(args.threads), "-c", str(args.context * args.parallel), "-np", str(args.parallel), "-ngl", "0"],
                ports[1],
            )
        )
    record = {
        "machine": machine.describe(),
        "model": pathlib.Path(args.model).name,
        "settings": {key: getattr(args, key) for key in ("each", "most", "prompt", "generate", "parallel", "context", "threads")}
        | ({"prompt_tokens": args.prompt_tokens} if args.prompt_tokens else {}),
        "servers": [server.name for server in servers],
        "clients": args.clients,
        "rounds": [],
    }
    if args.append and args.out and args.out.exists():
        before = json.loads(args.out.read_text())
        same = ("machine", "model", "settings", "servers", "clients")
        if any(before[key] != record[key] for key in same):
            raise SystemExit(f"{args.out} was measured otherwise: name another file")
        record["rounds"] = before["rounds"]
    try:
        for number in range(len(record["rounds"]), len(record["rounds"]) + args.rounds):
            entry = {server.name: {} for server in servers}
            for server in servers:
                with server:
                    asyncio.run(point(server.port, 1, 1, random.Random(number), args))
            for clients in args.clients:
                requests = max(clients, min(args.most, clients * max(args.each, 4 if clients == 1 else 0)))
                # Who goes first changes from round to round.
                for server in servers if number % 2 == 0 else servers[::-1]:
                    found = measure(server, clients, requests, f"{number} {clients}", args)
                    entry[server.name][str(clients)] = found
                    print(f"round {number}, {clients} clients, {server.name}: {found['tokens_per_second']:.1f} tok/s, "
                          f"first token {found['ttft_p50_s']:.2f} / {found['ttft_p95_s']:.2f} s", file=sys.stderr, flush=True)
            record["rounds"].append(entry)
            if args.out:
                args.out.write_text(json.dumps(record, indent=1) + "\n")
    finally:
        for server in servers:
            server.end()
    print(table(record))


if __name__ == "__main__":
    main()
