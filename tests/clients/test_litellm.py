"""litellm, as a library."""

import asyncio

import litellm
import pytest
from conftest import CASES, CHOICE, PRESENCE, messages


@pytest.fixture
def to(server):
    return dict(model="openai/demo", api_base=f"{server.url}/v1", api_key="none", temperature=0, max_tokens=60, num_retries=0)


def test_a_picture_is_seen(to):
    answer = litellm.completion(messages=messages(PRESENCE), **to)
    assert answer.choices[0].message.content == CASES[PRESENCE]["answer"]
    assert answer.usage.completion_tokens > 0


def test_streams_beside_each_other(to):
    async def ask(case: str) -> str:
        stream = await litellm.acompletion(messages=messages(case), stream=True, **to)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def run():
        return await asyncio.gather(*(ask(f"choice-00{n}") for n in (1, 2, 3)), ask(PRESENCE))

    *choices, presence = asyncio.run(run())
    assert choices[0] == CASES[CHOICE]["answer"] and presence == CASES[PRESENCE]["answer"]


def test_refusals_are_the_clients_own_exceptions(to):
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(messages=messages(CHOICE), **{**to, "model": "openai/other"})
    with pytest.raises(litellm.BadRequestError):
        litellm.completion(messages=messages(CHOICE), **{**to, "temperature": -1})
