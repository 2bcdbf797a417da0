"""Times transformers by turns: see engines.py for the protocol. MODEL.gguf PROMPT GENERATE THREADS

It doesn't compute in GGUF's types: the model of the file's shape is made with random weights in bfloat16, its fastest
type on a processor.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path

import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig
from transformers.initialization import no_init_weights

from header import Header

file, prompt, generate, threads = Path(sys.argv[1]), *map(int, sys.argv[2:5])
torch.set_num_threads(threads)
torch.manual_seed(0)

header = Header.of(file)
said = {key.removeprefix("gemma3."): value for key, value in header.metadata.items()}
vocab = header.tensors["token_embd.weight"][0][1]
config = Gemma3TextConfig(
    vocab_size=vocab,
    hidden_size=said["embedding_length"],
    intermediate_size=said["feed_forward_length"],
    num_hidden_layers=said["block_count"],
    num_attention_heads=said["attention.head_count"],
    num_key_value_heads=said["attention.head_count_kv"],
    head_dim=said["attention.key_length"],
    sliding_window=said["attention.sliding_window"],
    dtype=torch.bfloat16,
)
begun = time.perf_counter()
torch.set_default_dtype(torch.bfloat16)
with no_init_weights():
    model = Gemma3ForCausalLM(config).eval()
for parameter in model.parameters():
    if parameter.dim() > 1:
        parameter.data.normal_(0, parameter.shape[-1] ** -0.5)
    else:
        parameter.data.zero_()
model.tie_weights()
loaded = time.perf_counter() - begun


@torch.inference_mode()
def run():
    took, cache = {}, None
    token = torch.randint(1000, vocab - 1000, (1, 1))
    if prompt:
        ids = torch.randint(1000, vocab - 1000, (1, prompt))
        begun = time.perf_counter()
        out = model(input_ids=ids, use_cache=True, logits_to_keep=1)
        took["prompt_seconds"] = time.perf_counter() - begun
        cache = out.past_key_values
    if generate:
        begun = time.perf_counter()
        for _ in range(generate):
            out = model(input_ids=token, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache, token = out.past_key_values, out.logits[:, -1:].argmax(-1)
        took["generate_seconds"] = time.perf_counter() - begun
    took["peak_memory_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return took


run()
print(json.dumps({"ready": True, "load_seconds": loaded}), flush=True)
for _ in sys.stdin:
    print(json.dumps(run()), flush=True)
os._exit(0)
