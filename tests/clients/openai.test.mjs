// The `openai` package of Node against a running server.

import assert from "node:assert/strict";
import test from "node:test";
import OpenAI from "openai";

const { QERN_URL, QERN_KEY, QERN_MODEL_NAME: model } = process.env;
const client = new OpenAI({ baseURL: `${QERN_URL}/v1`, apiKey: QERN_KEY });
const ask = (content) => [{ role: "user", content }];

test("a stream gives the text of the whole answer", async () => {
  const fields = { model, messages: ask("Name three colours."), max_tokens: 24, seed: 5, temperature: 0.8 };
  const whole = await client.chat.completions.create(fields);
  const stream = await client.chat.completions.create({ ...fields, stream: true, stream_options: { include_usage: true } });
  let text = "";
  let usage = null;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta?.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(text, whole.choices[0].message.content);
  assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
});

test("the stream helper accumulates", async () => {
  const runner = client.chat.completions.stream({ model, messages: ask("Say hello."), seed: 1, stop: "\n" });
  let text = "";
  runner.on("content", (delta) => (text += delta));
  const final = await runner.finalChatCompletion();
  assert.equal(final.choices[0].message.content, text);
  assert.equal(final.choices[0].message.role, "assistant");
});

test("embeddings are decoded from base64", async () => {
  const answer = await client.embeddings.create({ model, input: "a cat" });
  const length = Math.hypot(...answer.data[0].embedding);
  assert.ok(Math.abs(length - 1) < 1e-4, `a length of ${length}`);
});

test("errors are the package's own", async () => {
  await assert.rejects(client.chat.completions.create({ model: "nobody", messages: ask("x") }), OpenAI.NotFoundError);
  await assert.rejects(client.chat.completions.create({ model, messages: ask("x"), n: 0 }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.param, "n");
    return true;
  });
});

test("a stream can be aborted", async () => {
  const stream = await client.chat.completions.create({ model, messages: ask("Count."), max_tokens: 400, stream: true });
  for await (const chunk of stream) {
    assert.equal(chunk.object, "chat.completion.chunk");
    break;
  }
  stream.controller.abort();
  assert.ok((await client.models.list()).data.length > 0);
});
