"""anthropic, Python."""

import anthropic
import pytest
from conftest import CASES, CHOICE, PRESENCE, messages, picture


@pytest.fixture
def client(server):
    return anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0)


# This client has no field for it; the server takes it.
GREEDY = {"temperature": 0}
QUESTION = messages(CHOICE)


def test_a_picture_is_seen(client):
    parts = [
        part if part["type"] == "text" else {
            "type": "image",
            "source": {"type": "base64", "media_type": "image/png", "data": picture(part["image"])},
        }
        for part in CASES[PRESENCE]["messages"][0]["content"]
    ]
    answer = client.messages.create(
        model="demo", max_tokens=60, extra_body=GREEDY, messages=[{"role": "user", "content": parts}]
    )
    assert [block.type for block in answer.content] == ["text"]
    assert answer.content[0].text == CASES[PRESENCE]["answer"]
    assert answer.stop_reason == "end_turn"
    assert answer.usage.input_tokens > 64 and answer.usage.output_tokens > 0


def test_a_stream_is_the_answer_in_pieces(client):
    with client.messages.stream(model="demo", max_tokens=60, extra_body=GREEDY, messages=QUESTION) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert "".join(pieces) == final.content[0].text == CASES[CHOICE]["answer"]
    assert len(pieces) > 5 and final.usage.output_tokens >= len(pieces)


def test_the_thought_is_a_block_of_its_own(client):
    answer = client.messages.create(
        model="demo", max_tokens=2000, extra_body=GREEDY, system="Be concise.", messages=[{"role": "user", "content": "Report this X-ray."}],
        thinking={"type": "enabled", "budget_tokens": 1024},
    )
    assert [block.type for block in answer.content] == ["thinking", "text"]
    assert answer.content[0].thinking and answer.content[1].text


def test_the_prompt_is_counted_as_it_is_read(client):
    counted = client.messages.count_tokens(model="demo", system="Be concise.", messages=QUESTION)
    answer = client.messages.create(model="demo", max_tokens=1, system="Be concise.", messages=QUESTION)
    assert counted.input_tokens == answer.usage.input_tokens + (answer.usage.cache_read_input_tokens or 0)


def test_turns_of_the_user_that_follow_each_other_are_one(client):
    parts = [{"role": "user", "content": "The patient is 64."}, {"role": "user", "content": "Is that old?"}]
    whole = [{"role": "user", "content": "The patient is 64.\n\nIs that old?"}]
    said = [client.messages.create(model="demo", max_tokens=20, extra_body=GREEDY, messages=turns).content[0].text for turns in (parts, whole)]
    assert said[0] == said[1]


def test_ends_are_told(client):
    cut = client.messages.create(model="demo", max_tokens=2, extra_body=GREEDY, messages=QUESTION)
    assert cut.stop_reason == "max_tokens" and cut.usage.output_tokens == 2
    stopped = client.messages.create(
        model="demo", max_tokens=60, extra_body=GREEDY, messages=QUESTION, stop_sequences=["Final"]
    )
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "Final")


def test_refusals_are_the_clients_own_exceptions(client, keyed):
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(model="claude", max_tokens=4, messages=QUESTION)
    with pytest.raises(anthropic.BadRequestError) as refused:
        client.messages.create(model="demo", max_tokens=0, messages=QUESTION)
    assert refused.value.body["error"]["type"] == "invalid_request_error"
    with pytest.raises(anthropic.AuthenticationError):
        anthropic.Anthropic(base_url=keyed.url, api_key="a-wrong-key-of-tests", max_retries=0).messages.create(
            model="demo", max_tokens=4, messages=QUESTION
        )
    right = anthropic.Anthropic(base_url=keyed.url, api_key="a-key-of-the-tests", max_retries=0)
    assert right.messages.create(model="demo", max_tokens=4, messages=QUESTION).content


def test_a_stream_that_is_left_ends(client, server):
    talk = [{"role": "user", "content": "Hello!"}]
    endless = dict(model="demo", max_tokens=8000, messages=talk, extra_body={"ignore_eos": True, "temperature": 50})
    with client.messages.stream(**endless) as stream:
        next(iter(stream))
    server.wait_until_idle()
