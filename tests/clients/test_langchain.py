"""langchain-openai."""

import pydantic
import pytest
from conftest import CASES, CHOICE, PRESENCE, messages
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI, OpenAI


@pytest.fixture
def chat(server):
    return ChatOpenAI(
        base_url=f"{server.url}/v1", api_key="none", model="demo", temperature=0, max_completion_tokens=60, max_retries=0
    )


def test_a_picture_is_seen_and_usage_counted(chat):
    answer = chat.invoke(messages(PRESENCE))
    assert answer.content == CASES[PRESENCE]["answer"]
    assert answer.usage_metadata["input_tokens"] > 64
    assert answer.response_metadata["finish_reason"] == "stop"


def test_a_stream_is_the_answer_in_pieces(chat):
    pieces = [piece.content for piece in chat.stream(messages(CHOICE))]
    assert "".join(pieces) == CASES[CHOICE]["answer"] and len(pieces) > 5


def test_chains_and_batches(chat):
    chain = ChatPromptTemplate.from_messages([("user", "{question}")]) | chat
    questions = [CASES[f"choice-00{n}"]["messages"][-1]["content"] for n in (1, 2, 3)]
    answers = chain.batch([{"question": question} for question in questions])
    assert [answer.content for answer in answers] == [chain.invoke({"question": q}).content for q in questions]


def test_structured_output(chat):
    class Finding(pydantic.BaseModel):
        present: bool

    assert isinstance(chat.with_structured_output(Finding, method="json_schema").invoke(messages(PRESENCE)), Finding)


def test_log_probabilities(chat):
    answer = chat.bind(logprobs=True, top_logprobs=2).invoke(messages(CHOICE))
    assert all(token["logprob"] <= 0 for token in answer.response_metadata["logprobs"]["content"])


def test_completions(server):
    llm = OpenAI(base_url=f"{server.url}/v1", api_key="none", model="demo", temperature=0, max_tokens=6)
    assert llm.invoke("The heart is") == "".join(llm.stream("The heart is"))
