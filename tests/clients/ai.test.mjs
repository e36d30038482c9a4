// The `ai` SDK against a running server, by its provider for compatible servers.

import assert from "node:assert/strict";
import test from "node:test";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embed, generateText, streamText } from "ai";

const { QERN_URL, QERN_KEY, QERN_MODEL_NAME: name } = process.env;
const qern = createOpenAICompatible({ name: "qern", baseURL: `${QERN_URL}/v1`, apiKey: QERN_KEY, includeUsage: true });

test("a text is generated", async () => {
  const answer = await generateText({ model: qern(name), system: "Answer briefly.", prompt: "What is two and two?", maxOutputTokens: 16, temperature: 0 });
  assert.ok(answer.text.length > 0);
  assert.ok(answer.usage.inputTokens > 0 && answer.usage.outputTokens > 0);
  assert.ok(["stop", "length"].includes(answer.finishReason), answer.finishReason);
});

test("a text is streamed, and is the same", async () => {
  const fields = { model: qern(name), prompt: "Name three colours.", maxOutputTokens: 24, temperature: 0 };
  const whole = await generateText(fields);
  const stream = streamText(fields);
  let text = "";
  for await (const delta of stream.textStream) text += delta;
  assert.equal(text, whole.text);
  assert.equal((await stream.usage).outputTokens, whole.usage.outputTokens);
});

test("a conversation goes on", async () => {
  const messages = [
    { role: "user", content: "The secret word is banana." },
    { role: "assistant", content: "I will remember." },
    { role: "user", content: [{ type: "text", text: "Say hello." }] },
  ];
  const answer = await generateText({ model: qern(name), messages, maxOutputTokens: 8 });
  assert.ok(answer.text.length > 0);
});

test("a value is embedded", async () => {
  const { embedding } = await embed({ model: qern.embeddingModel(name), value: "a cat" });
  assert.ok(embedding.length > 0);
});

test("an error says what is wrong", async () => {
  const wrong = generateText({ model: qern("nobody"), prompt: "x", maxRetries: 0 });
  await assert.rejects(wrong, /there is no model `nobody` here/);
});
