"""Times mistral.rs by turns: see engines.py for the protocol. MODEL.gguf PROMPT GENERATE THREADS

Its requests are texts: digits, each of which is a token, other ones each time. A prompt's time is that of a request for
one token; generation's is a request for GENERATE + 1 tokens less one for a single token.
"""

import json
import os
import random
import resource
import sys
import time
from pathlib import Path

file, prompt, generate, threads = Path(sys.argv[1]), *map(int, sys.argv[2:5])
os.environ["RAYON_NUM_THREADS"] = str(threads)

from mistralrs import CompletionRequest, Runner, Which  # noqa: E402 (reads the number of threads)


def ask(runner, tokens, answer):
    # The first token is the beginning of the text.
    text = "".join(random.choice("0123456789") for _ in range(tokens - 1))
    request = CompletionRequest(model="x", prompt=text, max_tokens=answer, temperature=0.0, ignore_eos=True)
    begun = time.perf_counter()
    usage = runner.send_completion_request(request).usage
    took = time.perf_counter() - begun
    if (usage.prompt_tokens, usage.completion_tokens) != (tokens, answer):
        raise SystemExit(f"asked {tokens} for {answer}, counted {usage.prompt_tokens} for {usage.completion_tokens}")
    return took


begun = time.perf_counter()
which = Which.GGUF(quantized_model_id=str(file.parent), quantized_filename=file.name)
runner = Runner(which=which, prefix_cache_n=0)
loaded = time.perf_counter() - begun
ask(runner, 32, 1)
print(json.dumps({"ready": True, "load_seconds": loaded}), flush=True)
for _ in sys.stdin:
    took = {}
    if prompt:
        took["prompt_seconds"] = ask(runner, prompt, 1)
    if generate:
        first = ask(runner, 2, 1)
        took["generate_seconds"] = ask(runner, 2, generate + 1) - first
    took["peak_memory_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(took), flush=True)
os._exit(0)
