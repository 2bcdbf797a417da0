"""lm-eval: `local-completions` (token ids, batches, echo) and `local-chat-completions` (pictures)."""

import json

import pytest
import requests
from conftest import CASES, HELDOUT
from lm_eval import simple_evaluate
from lm_eval.api.task import ConfigurableTask

CHOICES = [case for case in CASES.values() if case["task"] == "choice"][:6]
PRESENCES = [
    case
    for case in CASES.values()
    if case["task"] == "presence"
    and len(case["messages"]) == 1
    and case["messages"][0]["content"][0]["type"] == "image"
    and "Final Answer" in case["messages"][0]["content"][-1].get("text", "")
][:6]


def task(tmp_path, name: str, rows: list[dict], **config) -> ConfigurableTask:
    """A task over rows in a JSON file."""
    file = tmp_path / f"{name}.json"
    file.write_text("\n".join(map(json.dumps, rows)))
    dataset = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(file)}}, "test_split": "test"}
    return ConfigurableTask(config={"task": name, **dataset, **config})


def evaluate(model: str, url: str, tasks: list, **arguments):
    results = simple_evaluate(
        model=model,
        model_args={"base_url": url, "model": "demo", "num_concurrent": 1, **arguments.pop("model_args", {})},
        tasks=tasks,
        log_samples=True,
        bootstrap_iters=0,
        **arguments,
    )
    return results["results"], results["samples"]


def tokens(server, text: str) -> list[int]:
    return requests.post(f"{server.url}/tokenize", json={"prompt": text, "add_special_tokens": False}).json()["tokens"]


def test_choices_are_scored_as_the_server_scores_them(server, tmp_path):
    rows = [
        {"question": f"{case['messages'][-1]['content']}\n\nFinal Answer:", "right": "ABCD".index(case["expected"]["letter"])}
        for case in CHOICES
    ]
    scored = task(
        tmp_path, "choices", rows, output_type="multiple_choice", doc_to_text="{{question}}", doc_to_target="right",
        doc_to_choice=["A", "B", "C", "D"], metric_list=[{"metric": "acc"}],
    )
    url = f"{server.url}/v1/completions"
    results, samples = evaluate("local-completions", url, [scored], model_args={"batch_size": 4, "max_length": 2048})
    assert 0 <= results["choices"]["acc,none"] <= 1 and len(samples["choices"]) == len(rows)
    for sample in samples["choices"]:
        for (context, choice), [(logprob, _)] in zip(sample["arguments"], sample["resps"]):
            ids, of_context = tokens(server, context + choice), tokens(server, context)
            body = {"prompt": ids, "max_tokens": 0, "echo": True, "logprobs": 1, "temperature": 0}
            alone = requests.post(url, json=body).json()["choices"][0]["logprobs"]["token_logprobs"]
            assert float(logprob) == pytest.approx(sum(alone[len(of_context):]), abs=1e-4)


def test_texts_are_continued_in_batches(server, tmp_path):
    rows = [{"text": text, "target": ""} for text in ("The heart is", "Right lung:", "There is an", "Hello", "CRP")]
    written = task(
        tmp_path, "continued", rows, output_type="generate_until", doc_to_text="{{text}}", doc_to_target="target",
        generation_kwargs={"until": ["\n\n"], "max_gen_toks": 8, "temperature": 0}, metric_list=[{"metric": "exact_match"}],
    )
    url = f"{server.url}/v1/completions"
    _, samples = evaluate("local-completions", url, [written], model_args={"batch_size": 4, "max_length": 2048})
    for sample in samples["continued"]:
        body = {"prompt": tokens(server, sample["doc"]["text"]), "max_tokens": 8, "temperature": 0, "stop": ["\n\n"]}
        assert sample["resps"][0][0] == requests.post(url, json=body).json()["choices"][0]["text"]


def test_pictures_are_asked_about_in_chat(server, tmp_path):
    rows = [
        {
            "question": case["messages"][0]["content"][1]["text"],
            "file": str(HELDOUT / "images" / case["messages"][0]["content"][0]["image"]),
            "target": case["expected"]["answer"],
        }
        for case in PRESENCES
    ]

    def pictures(doc):
        from PIL import Image

        return [Image.open(doc["file"])]

    seen = task(
        tmp_path, "seen", rows, output_type="generate_until", doc_to_text="{{question}}", doc_to_target="target", doc_to_image=pictures,
        generation_kwargs={"until": [], "max_gen_toks": 60, "temperature": 0},
        filter_list=[{"name": "final", "filter": [{"function": "regex", "regex_pattern": "Final Answer: (.*)"}, {"function": "take_first"}]}],
        metric_list=[{"metric": "exact_match"}],
    )
    url = f"{server.url}/v1/chat/completions"
    results, _ = evaluate("local-chat-completions", url, [seen], apply_chat_template=True)
    assert results["seen"]["exact_match,final"] == 1.0, "the demo model answers all of these rightly"
