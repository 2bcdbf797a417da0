"""The API's description: what streams say is as it says, and schemathesis' requests are answered as it says."""

import json
import os
import pathlib
import subprocess
import sys
import urllib.request

import jsonschema
import pytest
from conftest import PRESENCE, TALK, messages

TOOL = {"name": "look_up", "description": "Looks up a value.", "parameters": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 8}}, "required": ["name"]}}
PICTURE = messages(PRESENCE)
ASKED = [
    ("/v1/chat/completions", {"messages": PICTURE, "max_tokens": 20, "logprobs": True, "top_logprobs": 2, "stream_options": {"include_usage": True}}),
    ("/v1/chat/completions", {"messages": PICTURE, "max_tokens": 60, "n": 2, "reasoning_effort": "high"}),
    ("/v1/chat/completions", {"messages": TALK, "tools": [{"type": "function", "function": TOOL}], "tool_choice": "required"}),
    ("/v1/completions", {"prompt": ["Report:", "Heart:"], "max_tokens": 8, "logprobs": 2, "stream_options": {"include_usage": True}}),
    ("/v1/responses", {"input": "Report this X-ray.", "max_output_tokens": 90, "reasoning": {"effort": "low"}}),
    ("/v1/responses", {"input": "Hello!", "max_output_tokens": 3}),
    ("/v1/responses", {"input": "Hello!", "tools": [{"type": "function", **TOOL}], "tool_choice": "required"}),
    ("/v1/messages", {"messages": TALK, "max_tokens": 90, "thinking": {"type": "enabled", "budget_tokens": 30}}),
    ("/v1/messages", {"messages": TALK, "max_tokens": 90, "tools": [{"name": "look_up", "input_schema": TOOL["parameters"]}], "tool_choice": {"type": "any"}}),
    ("/api/chat", {"messages": TALK, "think": True, "options": {"num_predict": 60}}),
    ("/api/chat", {"messages": TALK, "tools": [{"type": "function", "function": TOOL}]}),
    ("/api/generate", {"prompt": "Hello!", "options": {"num_predict": 9}}),
]


@pytest.fixture(scope="module")
def document(server):
    with urllib.request.urlopen(f"{server.url}/openapi.json") as answer:
        return json.load(answer)


@pytest.mark.parametrize("path, body", ASKED, ids=[f"{path[1:]}-{number}" for number, (path, _) in enumerate(ASKED)])
def test_what_streams_say_is_described(server, document, path, body):
    body = {"temperature": 0, "stream": True, **body}
    request = urllib.request.Request(f"{server.url}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        kind, lines = answer.headers.get_content_type(), answer.read().decode().splitlines()
    if kind == "text/event-stream":
        lines = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    said = [json.loads(line) for line in lines if line not in ("", "[DONE]")]
    item = document["paths"][path]["post"]["responses"]["200"]["content"][kind]["x-item"]
    check = jsonschema.Draft202012Validator({**item, "components": document["components"]})
    for one in said:
        assert check.is_valid(one), one
    assert len(said) > 2


def test_schemathesis_finds_no_contradiction(start, tmp_path):
    # A minute or so of it; docs/server.md says how to let it search longer.
    server = start("--context", "2048", "--max-tokens", "24")
    schemathesis = pathlib.Path(sys.executable).with_name("schemathesis")
    # What schemas can't say is left out: that turns alternate, that a prompt fits, that a text is a picture.
    options = ["--max-examples=4", f"--seed={os.environ.get('SEED', 1)}", "--max-time=100", "--phases=examples,coverage,fuzzing", "--exclude-path-regex=embed", "--exclude-checks=positive_data_acceptance", "--no-color"]
    found = subprocess.run([schemathesis, "run", f"{server.url}/openapi.json", *options], cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "COLUMNS": "160"})
    assert found.returncode == 0, found.stdout[-8000:] + found.stderr[-2000:]
    server.wait_until_idle()
