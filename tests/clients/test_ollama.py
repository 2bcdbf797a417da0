"""ollama, Python."""

import ollama
import pytest
from conftest import CASES, CHOICE, PRESENCE, messages, picture


@pytest.fixture
def client(server):
    return ollama.Client(host=server.url)


GREEDY = {"temperature": 0, "num_predict": 80}
QUESTION = messages(CHOICE)


def test_a_picture_is_seen(client):
    image, text = CASES[PRESENCE]["messages"][0]["content"]
    question = {"role": "user", "content": text["text"], "images": [picture(image["image"])]}
    answer = client.chat(model="demo", messages=[question], options=GREEDY)
    assert answer.message.content == CASES[PRESENCE]["answer"]
    assert answer.done_reason == "stop" and answer.prompt_eval_count > 64 and answer.eval_count > 0
    generated = client.generate(model="demo", prompt=text["text"], images=[picture(image["image"])], options=GREEDY)
    assert generated.response == answer.message.content


def test_a_stream_is_the_answer_in_pieces(client):
    pieces = list(client.chat(model="demo", messages=QUESTION, options=GREEDY, stream=True))
    assert "".join(piece.message.content for piece in pieces) == CASES[CHOICE]["answer"]
    assert len(pieces) > 5 and pieces[-1].done and not pieces[0].done


def test_times_are_told_and_a_model_is_loaded_by_asking_nothing(client):
    answer = client.chat(model="demo", messages=QUESTION, options=GREEDY)
    assert answer.total_duration >= answer.prompt_eval_duration + answer.eval_duration > 0
    assert client.generate(model="demo").done_reason == client.chat(model="demo").done_reason == "load"
    assert client.generate(model="demo", keep_alive=0).done_reason == "unload"


def test_thinking_and_forms(client):
    answer = client.chat(model="demo", messages=[{"role": "user", "content": "Report this X-ray."}], think=True, options=GREEDY)
    assert answer.message.thinking and answer.message.content
    schema = {"type": "object", "properties": {"right": {"type": "boolean"}}, "required": ["right"], "additionalProperties": False}
    formed = client.chat(model="demo", messages=QUESTION, format=schema, options=GREEDY)
    assert formed.message.content in ('{"right":true}', '{"right":false}', '{"right": true}', '{"right": false}')


def test_the_model_is_listed_and_another_refused(client):
    assert [model.model for model in client.list().models] == ["demo"]
    with pytest.raises(ollama.ResponseError) as refused:
        client.chat(model="llama3", messages=QUESTION)
    assert refused.value.status_code == 404


def test_a_stream_that_is_left_ends(client, server):
    stream = client.chat(model="demo", messages=[{"role": "user", "content": "Hello!"}], options={"num_predict": 8000}, stream=True)
    next(stream)
    stream.close()
    server.wait_until_idle()
