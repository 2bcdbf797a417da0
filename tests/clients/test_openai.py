"""openai, Python."""

import asyncio

import openai
import pydantic
import pytest
from conftest import CASES, CHOICE, PRESENCE, TALK, messages


@pytest.fixture
def client(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def test_a_picture_is_seen_and_usage_counted(client):
    answer = client.chat.completions.create(model="demo", messages=messages(PRESENCE), temperature=0, max_tokens=60)
    assert answer.choices[0].message.content == CASES[PRESENCE]["answer"]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens > 64, "the picture alone is 64 tokens"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_is_the_answer_in_pieces(client):
    asked = dict(model="demo", messages=messages("report-001"), temperature=0, max_tokens=120)
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    deltas = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(deltas) == whole.choices[0].message.content == CASES["report-001"]["answer"]
    assert sum(1 for delta in deltas if delta) > 10
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len({chunk.id for chunk in chunks}) == 1


def test_log_probabilities_are_those_of_the_answer(client):
    asked = dict(model="demo", messages=messages(CHOICE), temperature=0, max_tokens=60, logprobs=True, top_logprobs=3)
    choice = client.chat.completions.create(**asked).choices[0]
    tokens = choice.logprobs.content
    text = b"".join(bytes(token.bytes) for token in tokens).decode()
    assert choice.message.content == text.removesuffix("<end_of_turn>")
    for token in tokens:
        assert token.logprob <= 0 and len(token.top_logprobs) == 3
        assert (token.token, token.logprob) == (token.top_logprobs[0].token, token.top_logprobs[0].logprob)


def test_the_thought_is_apart_from_the_answer(client):
    # A case whose system text asks for a thought.
    message = client.chat.completions.create(model="demo", messages=messages("talk-001"), temperature=0, max_tokens=80)
    message = message.choices[0].message
    assert message.content == CASES["talk-001"]["expected"]["text"]
    assert "find none" in message.reasoning_content


def test_seeds_stops_budgets_and_several_answers(client):
    asked = dict(model="demo", messages=TALK, temperature=1.5, seed=7, n=3, max_completion_tokens=30)
    first, again = (client.chat.completions.create(**asked) for _ in range(2))
    assert len(first.choices) == 3
    assert [c.message.content for c in first.choices] == [c.message.content for c in again.choices]
    cut = client.chat.completions.create(model="demo", messages=messages(CHOICE), temperature=0, max_tokens=2)
    assert (cut.choices[0].finish_reason, cut.usage.completion_tokens) == ("length", 2)
    stopped = client.chat.completions.create(model="demo", messages=messages(CHOICE), temperature=0, stop=["Final"])
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.choices[0].message.content == CASES[CHOICE]["answer"].split("Final")[0]


def test_an_answer_has_the_shape_that_a_class_says(client):
    class Finding(pydantic.BaseModel):
        present: bool
        where: str = pydantic.Field(max_length=20)

    parsed = client.chat.completions.parse(
        model="demo", messages=messages(PRESENCE), response_format=Finding, temperature=0, max_tokens=80
    )
    assert isinstance(parsed.choices[0].message.parsed, Finding)


def test_completions_continue_echo_and_score(client):
    # What follows is what was scored: the log-probabilities of a text don't depend on how it came to be.
    asked = dict(model="demo", temperature=0, logprobs=1)
    written = client.completions.create(prompt="The heart is", max_tokens=6, **asked).choices[0]
    text = "The heart is" + written.text
    echoed = client.completions.create(prompt=text, max_tokens=0, echo=True, **asked).choices[0]
    assert echoed.text == text
    assert echoed.logprobs.token_logprobs[0] is None
    count = len(written.logprobs.token_logprobs)
    assert echoed.logprobs.token_logprobs[-count:] == pytest.approx(written.logprobs.token_logprobs, abs=1e-4)
    several = client.completions.create(model="demo", prompt=["The heart is", "Hello"], max_tokens=6, temperature=0)
    assert [choice.index for choice in several.choices] == [0, 1]
    assert several.choices[0].text == written.text
    stream = client.completions.create(model="demo", prompt="The heart is", max_tokens=6, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream if chunk.choices) == written.text


def test_responses_whole_and_as_events(client):
    asked = dict(model="demo", input=messages(CHOICE)[0]["content"], temperature=0, max_output_tokens=60)
    whole = client.responses.create(**asked)
    assert whole.status == "completed" and whole.output_text == CASES[CHOICE]["answer"]
    with client.responses.stream(**asked) as stream:
        kinds = [event.type for event in stream]
        assert stream.get_final_response().output_text == whole.output_text
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed"


def test_the_model_is_listed(client):
    assert [model.id for model in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").id == "demo"


def test_refusals_are_the_clients_own_exceptions(client, keyed):
    def ask(client=client, **fields):
        return client.chat.completions.create(**{"model": "demo", "messages": TALK, **fields})

    with pytest.raises(openai.NotFoundError) as refused:
        ask(model="gpt-4o")
    assert refused.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as refused:
        ask(temperature=-1)
    assert refused.value.param == "temperature"
    url = {"type": "image_url", "image_url": {"url": "https://example.org/secret.png"}}
    with pytest.raises(openai.BadRequestError) as refused:
        ask(messages=[{"role": "user", "content": [url]}])
    assert "secret" not in str(refused.value)
    with pytest.raises(openai.BadRequestError) as refused:
        ask(messages=[{"role": "user", "content": "word " * 20_000}])
    assert refused.value.code == "context_length_exceeded"
    for key, right in (("a-wrong-key-of-tests", False), ("a-key-of-the-tests", True)):
        other = openai.OpenAI(base_url=f"{keyed.url}/v1", api_key=key, max_retries=0)
        if right:
            assert ask(other, max_tokens=4).choices
        else:
            with pytest.raises(openai.AuthenticationError):
                ask(other)


def test_a_full_queue_is_a_rate_limit_and_a_cancelled_request_ends(start):
    server = start("--running", "1", "--queue", "0")
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    endless = dict(model="demo", messages=TALK, max_tokens=8000, extra_body={"ignore_eos": True}, temperature=50)
    with client.chat.completions.create(**endless, stream=True) as stream:
        assert next(iter(stream)).choices
        with pytest.raises(openai.RateLimitError) as refused:
            client.chat.completions.create(model="demo", messages=TALK)
        assert int(refused.value.response.headers["retry-after"]) > 0
    server.wait_until_idle()
    assert client.chat.completions.create(model="demo", messages=TALK, max_tokens=4).choices


def test_async_requests_are_cancelled_with_their_tasks(server):
    async def run():
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            endless = dict(model="demo", messages=TALK, max_tokens=8000, extra_body={"ignore_eos": True}, temperature=50)
            tasks = [asyncio.create_task(client.chat.completions.create(**endless)) for _ in range(4)]
            async with asyncio.timeout(10):
                while server.metric("medgemma_requests_running") < 4:
                    await asyncio.sleep(0.02)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())
    server.wait_until_idle()
