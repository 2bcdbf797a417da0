"""Requests that are nearly right: what the API's description forbids is refused, whichever field it is in, and nothing fails inside."""

import copy
import json
import random
import urllib.error
import urllib.request

import jsonschema
import pytest
from conftest import picture

DOT = picture("cxr-000.png")
ADDRESS = f"data:image/png;base64,{DOT}"
FUNCTION = {"name": "find", "description": "Finds.", "parameters": {"type": "object", "properties": {"a": {"type": "string", "maxLength": 4}}}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "find", "arguments": "{}"}}
ASKED = {"role": "user", "content": "Hello!"}
SAMPLING = {"temperature": 0.5, "top_p": 0.9, "top_k": 4, "min_p": 0.1, "seed": 3}
PENALTIES = {"presence_penalty": 0.1, "frequency_penalty": 0.1, "logit_bias": {"5": 1}}
WRITING = {**SAMPLING, **PENALTIES, "repetition_penalty": 1.1, "stream": False, "user": "a"}
CHOSEN = {**WRITING, "stop": ["zz"], "n": 1, "stream_options": {"include_usage": True}, "ignore_eos": False}
SCHEMA = {"type": "object"}
# Together they use every field that is described.
RIGHT = [
    ("/v1/chat/completions", {
        "model": "demo", "max_tokens": 2, "max_completion_tokens": 2, **CHOSEN, "logprobs": True, "top_logprobs": 1, "reasoning_effort": "low",
        "chat_template_kwargs": {"enable_thinking": True, "thinking_budget": 3}, "thinking_token_budget": 3, "thinking_budget_tokens": 3,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": ADDRESS}}]},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": "x"},
        ],
        "tools": [{"type": "function", "function": FUNCTION}], "parallel_tool_calls": False,
        "tool_choice": {"type": "function", "function": {"name": "find"}},
    }),
    ("/v1/chat/completions", {"max_tokens": 2, "tools": None, "tool_choice": "auto", "messages": [
        ASKED,
        {"role": "assistant", "content": [{"type": "text", "text": "a"}], "tool_calls": [CALL]},
        {"role": "function", "name": "find", "content": [{"type": "text", "text": "x"}]},
    ]}),
    ("/v1/chat/completions", {
        "messages": [{"role": "user", "content": [{"type": "image", "image": ADDRESS}, {"type": "image_url", "image_url": ADDRESS}]}],
        "max_tokens": 2, "response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": SCHEMA}},
    }),
    ("/v1/chat/completions", {"messages": [ASKED], "max_tokens": 2, "response_format": {"type": "text", "json_schema": {"schema": {}}}, "structured_outputs": {"regex": "a"}}),
    ("/v1/chat/completions", {"messages": [ASKED], "max_tokens": 2, "structured_outputs": {"choice": ["a"]}}),
    ("/v1/chat/completions", {"messages": [ASKED], "max_tokens": 2, "guided_choice": ["a", "b"]}),
    ("/v1/chat/completions", {"messages": [ASKED], "max_tokens": 2, "guided_json": SCHEMA}),
    ("/v1/completions", {"model": "demo", "prompt": ["a", [5, 6]], "max_tokens": 2, **CHOSEN, "logprobs": 1, "echo": True}),
    ("/v1/completions", {"prompt": [5, 6], "max_tokens": 1, "guided_grammar": 'start: "a"'}),
    ("/v1/completions", {"prompt": "a", "max_tokens": 0, "logprobs": True, "guided_regex": "a"}),
    ("/v1/responses", {
        "model": "demo", "instructions": "Be brief.", "max_output_tokens": 2, **WRITING, "reasoning": {"effort": "low"}, "store": False, "metadata": {},
        "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": ADDRESS}]},
            {"type": "reasoning"},
            {"type": "function_call", "call_id": "call_1", "name": "find", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "call_1", "output": [{"type": "input_text", "text": "a"}]},
        ],
        "text": {"format": {"type": "text", "schema": {}}}, "tools": [{"type": "function", **FUNCTION}],
        "tool_choice": {"type": "function", "name": "find"}, "parallel_tool_calls": True,
    }),
    ("/v1/responses", {"input": [ASKED, {"role": "assistant", "content": [{"type": "output_text", "text": "a"}]}, ASKED], "max_output_tokens": 2}),
    ("/v1/responses", {"input": "a", "max_output_tokens": 2, "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}}}),
    ("/v1/messages", {
        "model": "demo", "max_tokens": 2, **SAMPLING, "stop_sequences": ["zz"], "stream": False, "thinking": {"type": "enabled", "budget_tokens": 3},
        "system": [{"type": "text", "text": "Be brief."}], "output_config": {"effort": "low"}, "metadata": {},
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": DOT}}]},
            {"role": "assistant", "content": [{"type": "thinking"}, {"type": "tool_use", "id": "toolu_1", "name": "find", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": [
                {"type": "text", "text": "x"}, {"type": "image", "source": {"type": "url", "url": ADDRESS}}]}]},
        ],
        "tools": [{"type": "custom", "name": "find", "description": "Finds.", "input_schema": SCHEMA}], "tool_choice": {"type": "tool", "name": "find"},
    }),
    ("/v1/messages/count_tokens", {"model": "demo", "system": "Be brief.", "messages": [ASKED, ASKED], "thinking": {"type": "enabled"}}),
    ("/v1/messages", {"max_tokens": 2, "system": "Be brief.", "messages": [ASKED], "output_format": {"type": "json_schema", "schema": SCHEMA}}),
    ("/v1/messages", {"max_tokens": 2, "messages": [ASKED], "output_config": {"format": {"type": "text", "schema": {}}}, "thinking": {"type": "disabled"}}),
    ("/api/chat", {
        "model": "demo", "stream": False, "keep_alive": 5, "think": "low", "tools": [{"type": "function", "function": FUNCTION}],
        "options": {**SAMPLING, **PENALTIES, "repeat_penalty": 1.1, "stop": ["zz"], "num_predict": 2},
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "a", "images": [DOT]},
            {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "find", "arguments": {}}}]},
            {"role": "tool", "content": "x", "tool_name": "find"},
        ],
    }),
    ("/api/chat", {"stream": False, "options": {"num_predict": 2}, "think": True, "format": "json", "messages": [
        ASKED, {"role": "assistant", "tool_calls": [{"function": {"name": "find", "arguments": {}}}]}, {"role": "tool", "content": "x"}]}),
    ("/api/generate", {"model": "demo", "stream": False, "prompt": "a", "system": "Be brief.", "images": [DOT], "raw": False,
                       "options": {"num_predict": 2, "stop": "zz"}, "keep_alive": 1, "think": False, "format": SCHEMA}),
    ("/api/show", {"model": "demo", "verbose": True}),
    ("/tokenize", {"model": "demo", "prompt": "a", "add_special_tokens": True}),
    ("/tokenize", {"content": "a", "add_special_tokens": False}),
    ("/tokenize", {"messages": [ASKED, {"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "call_1", "content": "x"}]}),
    ("/detokenize", {"model": "demo", "tokens": [2, 5]}),
]
GONE = object()
WRONG = [GONE, None, True, False, 0, 1, -1, 5, 1.5, 1e-38, 1e9, 1e30, "", "x", "1", "function", [], ["x"], [1], {}, {"x": 1}, [[]], [{}], [None]]
# Of some ten thousand, for each of the requests above.
TRIED = 120


@pytest.fixture(scope="module")
def document(server):
    with urllib.request.urlopen(f"{server.url}/openapi.json") as answer:
        return json.load(answer)


def places(value, path=()):
    """Every place in a value."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, held in inner:
        yield from places(held, (*path, key))


def put(body, path, value):
    """A copy with something else in a place, or nothing."""
    body = copy.deepcopy(body)
    within = body
    for key in path[:-1]:
        within = within[key]
    if value is GONE:
        del within[path[-1]]
    else:
        within[path[-1]] = value
    return body


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize("path, body", RIGHT, ids=[f"{path[1:]}-{number}" for number, (path, _) in enumerate(RIGHT)])
def test_what_the_description_forbids_is_refused(server, document, path, body):
    schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    check = jsonschema.Draft202012Validator({**schema, "components": document["components"]})
    check.validate(body)
    assert post(server.url + path, body) == 200
    changes = [(place, value) for place in places(body) if place for value in WRONG]
    for place, value in random.Random(1).sample(changes, min(TRIED, len(changes))):
        changed = put(body, place, value)
        status = post(server.url + path, changed)
        assert status in (200, 400, 404), (status, place, value)
        assert status != 200 or check.is_valid(changed), ("taken against the description", place, value)
