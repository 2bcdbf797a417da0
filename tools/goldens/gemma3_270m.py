"""Goldens for Gemma 3 270M in Q4_K_M: testdata/gemma3-270m.json.

    scripts/fetch-gemma3-270m.sh
    python tools/goldens/gemma3_270m.py

Two references read the same file. `transformers` runs the weights dequantized to float32: the tight one, what an
engine that computes in float32 has to reproduce. llama.cpp runs the blocks as they are and rounds activations to 8
bits on the way: what people use, and how far from the first a good engine may be.

Both continue each prompt greedily and give log-probabilities of their own tokens; both give the log-probability of
every token of testdata/passage.txt, which is longer than the sliding window.
"""

import hashlib
import json
import math

import gguf
import llama_cpp
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

import ggufs
from models import TESTDATA
from reference import rounded, versions

FILE = TESTDATA / "fetched" / "gemma-3-270m-Q4_K_M.gguf"
PASSAGE = (TESTDATA / "passage.txt").read_text()
STEPS = 40
MARGIN = 0.01  # the least gap between best and second best of a float32 golden
PROMPTS = {
    "english": "The heart has four chambers. Blood from the body enters the",
    "list": "The most common symptoms of pneumonia are:\n\n1.",
    "french": "La radiographie du thorax montre un épanchement pleural. Le patient présente",
    "german": "Der menschliche Körper besteht aus vielen Organen. Die Leber",
    "spanish": "El corazón es un órgano que",
    "chinese": "高血压是一种常见的疾病，患者应该",
    "japanese": "心臓は血液を全身に送り出す",
    "hindi": "रोगी को तीन दिन से बुखार है और",
    "code": "def body_mass_index(weight_kg, height_m):\n    ",
    # Past the window of 512.
    "long": PASSAGE[: PASSAGE.index("There are mistakes")] + "There are mistakes that even careful people make. The",
}


def dequantized(reader: gguf.GGUFReader) -> Gemma3ForCausalLM:
    def key(name):
        return reader.fields[f"gemma3.{name}"].contents()

    config = Gemma3TextConfig(
        vocab_size=262144,
        hidden_size=key("embedding_length"),
        intermediate_size=key("feed_forward_length"),
        num_hidden_layers=key("block_count"),
        num_attention_heads=key("attention.head_count"),
        num_key_value_heads=key("attention.head_count_kv"),
        head_dim=key("attention.key_length"),
        query_pre_attn_scalar=key("attention.key_length"),
        rms_norm_eps=1e-6,
        sliding_window=key("attention.sliding_window"),
        max_position_embeddings=key("context_length"),
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": key("rope.freq_base")},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
    )
    config._attn_implementation = "eager"
    model = Gemma3ForCausalLM(config).float().eval()
    ggufs.load_text(model, FILE)
    return model


class Transformers:
    def __init__(self, reader):
        self.model = dequantized(reader)

    @torch.no_grad()
    def logprobs(self, ids: list[int]) -> torch.Tensor:
        return torch.log_softmax(self.model(input_ids=torch.tensor([ids])).logits[0].double(), dim=-1)

    @torch.no_grad()
    def greedy(self, ids: list[int]) -> dict:
        made = self.model.generate(
            input_ids=torch.tensor([ids]), max_new_tokens=STEPS, do_sample=False, eos_token_id=None, pad_token_id=0
        )[0].tolist()
        new = made[len(ids) :]
        # One pass over the whole, without a cache, has to choose the same.
        steps = self.logprobs(made)[len(ids) - 1 : -1]
        best = torch.topk(steps, 2)
        assert best.indices[:, 0].tolist() == new
        return {
            "greedy": new,
            "logprobs": rounded(best.values[:, 0]),
            "margins": rounded(best.values[:, 0] - best.values[:, 1], 4),
        }


class LlamaCpp:
    def __init__(self):
        self.llm = llama_cpp.Llama(
            str(FILE), n_ctx=2048, n_batch=512, n_threads=2, logits_all=True, verbose=False, seed=0
        )

    def tokenize(self, text: str) -> list[int]:
        return self.llm.tokenize(text.encode(), add_bos=True, special=False)

    def logprobs(self, ids: list[int]) -> torch.Tensor:
        self.llm.reset()
        self.llm.eval(ids)
        return torch.log_softmax(torch.from_numpy(self.llm.scores[: len(ids)]).double(), dim=-1)

    def greedy(self, ids: list[int]) -> dict:
        self.llm.reset()
        self.llm.eval(ids)
        new, logprobs = [], []
        for _ in range(STEPS):
            last = torch.log_softmax(torch.from_numpy(self.llm.scores[self.llm.n_tokens - 1]).double(), dim=-1)
            new.append(int(last.argmax()))
            logprobs.append(float(last.max()))
            self.llm.eval(new[-1:])
        return {"greedy": new, "logprobs": rounded(logprobs)}


def score(engine, ids: list[int]) -> dict:
    logprobs = rounded(engine.logprobs(ids)[range(len(ids) - 1), ids[1:]], 5)
    return {"perplexity": round(math.exp(-sum(logprobs) / len(logprobs)), 5), "logprobs": logprobs}


def main() -> None:
    torch.set_num_threads(2)
    reader = gguf.GGUFReader(FILE)
    llama, exact = LlamaCpp(), Transformers(reader)
    prompts = []
    for name, text in PROMPTS.items():
        ids = llama.tokenize(text)
        case = {"name": name, "text": text, "input_ids": ids}
        case["float32"] = exact.greedy(ids)
        case["llama_cpp"] = llama.greedy(ids)
        case["reply"] = llama.llm.detokenize(case["float32"]["greedy"]).decode(errors="replace")
        same = [a == b for a, b in zip(case["float32"]["greedy"], case["llama_cpp"]["greedy"])] + [False]
        if min(case["float32"]["margins"]) < MARGIN:
            raise SystemExit(f"{name}: a choice too close to call; ask something else")
        print(name, len(ids), "same tokens:", same.index(False), "least margin:", min(case["float32"]["margins"]))
        prompts.append(case)
    ids = llama.tokenize(PASSAGE)
    passage = {"file": "passage.txt", "input_ids": ids, "float32": score(exact, ids), "llama_cpp": score(llama, ids)}
    print(len(ids), passage["float32"]["perplexity"], passage["llama_cpp"]["perplexity"])
    head = {
        "file": FILE.name,
        "sha256": hashlib.sha256(FILE.read_bytes()).hexdigest(),
        "float32": versions(),
        "llama_cpp": {"llama-cpp-python": llama_cpp.__version__},
    }
    lines = [json.dumps(c, ensure_ascii=False, separators=(",", ":")) for c in prompts]
    text = json.dumps(head)[:-1] + ',\n"prompts": [\n' + ",\n".join(lines) + "\n],\n"
    text += '"passage": ' + json.dumps(passage, separators=(",", ":")) + "\n}\n"
    (TESTDATA / "gemma3-270m.json").write_text(text)


if __name__ == "__main__":
    main()
