"""The `openai` package against a running server: whole and streamed answers, errors, embeddings, retries."""

import os

import openai
import pytest

URL = os.environ["QERN_URL"]
MODEL = os.environ["QERN_MODEL_NAME"]


@pytest.fixture(scope="module")
def client():
    with openai.OpenAI(base_url=f"{URL}/v1", api_key=os.environ["QERN_KEY"], timeout=120) as client:
        yield client


def ask(text):
    return [{"role": "user", "content": text}]


def test_models_are_listed(client):
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL


def test_a_chat_is_answered_with_usage_and_log_probabilities(client):
    answer = client.chat.completions.create(
        model=MODEL, messages=ask("Say hello."), max_completion_tokens=8, seed=1, logprobs=True, top_logprobs=3
    )
    choice = answer.choices[0]
    assert choice.message.role == "assistant" and choice.message.content
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens_details.cached_tokens >= 0
    assert len(choice.logprobs.content) <= answer.usage.completion_tokens
    for token in choice.logprobs.content:
        assert bytes(token.bytes).decode(errors="replace") == token.token
        assert len(token.top_logprobs) == 3
    assert answer.model_extra["context"]["turns_dropped"] == 0


def test_a_stream_gives_the_same_text(client):
    fields = dict(model=MODEL, messages=ask("Name three colours."), max_tokens=24, seed=5, temperature=0.8)
    whole = client.chat.completions.create(**fields)
    chunks = list(client.chat.completions.create(**fields, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]][-1] == whole.choices[0].finish_reason


def test_the_stream_helper_accumulates(client):
    with client.chat.completions.stream(model=MODEL, messages=ask("Say hello."), seed=1, stop="\n") as stream:
        deltas = "".join(event.delta for event in stream if event.type == "content.delta")
        final = stream.get_final_completion().choices[0].message
    assert deltas == final.content and final.role == "assistant"


def test_n_answers_have_their_indices(client):
    answer = client.chat.completions.create(model=MODEL, messages=ask("Say a word."), n=3, max_tokens=4, temperature=1)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]


def test_errors_are_the_packages_own(client):
    with pytest.raises(openai.NotFoundError) as error:
        client.chat.completions.create(model="nobody", messages=ask("x"))
    assert error.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model=MODEL, messages=ask("x"), temperature=-1)
    assert error.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model=MODEL, messages=ask("word " * 50_000))
    assert error.value.code == "context_length_exceeded"
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{URL}/v1", api_key="wrong-key").models.list()


def test_embeddings_come_as_base64_and_as_numbers(client):
    texts = ["a cat", "a dog"]
    default = client.embeddings.create(model=MODEL, input=texts)
    numbers = client.embeddings.create(model=MODEL, input=texts, encoding_format="float")
    for one, other in zip(default.data, numbers.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-7)
        assert sum(value * value for value in one.embedding) == pytest.approx(1, abs=1e-4)


def test_a_text_goes_on(client):
    answer = client.completions.create(model=MODEL, prompt="1, 2, 3,", max_tokens=6, temperature=0, logprobs=2, echo=True)
    assert answer.choices[0].text.startswith("1, 2, 3, 4")
    logprobs = answer.choices[0].logprobs
    assert logprobs.token_logprobs[0] is None
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == len(logprobs.text_offset)


def test_extra_fields_reach_the_server(client):
    extra = {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "dry_multiplier": 0.5, "priority": 0, "timeout": 60}
    answer = client.chat.completions.create(model=MODEL, messages=ask("Hi"), max_tokens=2, extra_body=extra)
    assert answer.choices[0].message.content
    with pytest.raises(openai.BadRequestError, match="did you mean `top_k`"):
        client.chat.completions.create(model=MODEL, messages=ask("Hi"), extra_body={"topk": 5})


def test_a_stream_can_be_left(client):
    with client.chat.completions.create(model=MODEL, messages=ask("Count."), max_tokens=400, stream=True) as stream:
        next(iter(stream))
    assert client.chat.completions.create(model=MODEL, messages=ask("Hi"), max_tokens=1).choices
