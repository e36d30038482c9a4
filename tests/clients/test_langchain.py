"""LangChain's OpenAI classes against a running server."""

import os

import openai
import pytest
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

SERVER = dict(base_url=f"{os.environ['QERN_URL']}/v1", api_key=os.environ["QERN_KEY"], model=os.environ["QERN_MODEL_NAME"])


def test_a_chat_is_answered_and_streamed():
    model = ChatOpenAI(**SERVER, temperature=0, max_tokens=16, stream_usage=True)
    whole = model.invoke([("system", "Answer briefly."), ("human", "What is two and two?")])
    assert whole.content and whole.usage_metadata["output_tokens"] > 0
    parts = list(model.stream([("system", "Answer briefly."), ("human", "What is two and two?")]))
    assert "".join(part.content for part in parts) == whole.content
    assert sum(part.usage_metadata["output_tokens"] for part in parts if part.usage_metadata) == whole.usage_metadata["output_tokens"]


def test_a_conversation_goes_on():
    model = ChatOpenAI(**SERVER, temperature=0, max_tokens=8)
    first = model.invoke("Say hello.")
    again = model.invoke([("human", "Say hello."), first, ("human", "Again.")])
    assert again.content


def test_embeddings_work_as_texts_and_say_what_is_wrong_with_tokens():
    texts = ["a cat", "a dog"]
    vectors = OpenAIEmbeddings(**SERVER, check_embedding_ctx_length=False).embed_documents(texts)
    assert len(vectors) == 2 and len(vectors[0]) == len(vectors[1]) > 0
    # What it sends without that: ids of a vocabulary that is not the model's.
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
        openai.OpenAI(base_url=SERVER["base_url"], api_key=SERVER["api_key"]).embeddings.create(model=SERVER["model"], input=[[1, 2]])
