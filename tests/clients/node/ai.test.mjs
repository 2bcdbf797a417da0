// The AI SDK with @ai-sdk/openai-compatible.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, generateObject, generateText, jsonSchema, streamText } from "ai";
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { seen, serve } from "./server.mjs";

const server = await serve();
const provider = createOpenAICompatible({ name: "medgemma", baseURL: `${server.url}/v1`, includeUsage: true, supportsStructuredOutputs: true });
const model = provider("demo");
const { text, url, answer } = await seen("presence-002");
const messages = [{ role: "user", content: [{ type: "image", image: url }, { type: "text", text }] }];
const asked = { model, messages, temperature: 0, maxOutputTokens: 60, maxRetries: 0 };
after(() => server.end());

test("a picture is seen", async () => {
  const whole = await generateText(asked);
  assert.equal(whole.text, answer);
  assert.equal(whole.finishReason, "stop");
  assert.ok(whole.usage.inputTokens > 64);
});

test("a stream is the answer in pieces, the thought apart", async () => {
  const result = streamText(asked);
  let pieces = "";
  for await (const piece of result.textStream) pieces += piece;
  assert.equal(pieces, answer);
  assert.ok((await result.usage).outputTokens > 5);
  const thinking = await generateText({ model, prompt: "Report this X-ray.", temperature: 0, maxOutputTokens: 80, maxRetries: 0, providerOptions: { medgemma: { reasoningEffort: "high" } } });
  assert.ok(thinking.reasoningText.length > 0 && thinking.text.length > 0);
});

test("an object of a schema", async () => {
  const schema = jsonSchema({ type: "object", properties: { present: { type: "boolean" } }, required: ["present"], additionalProperties: false });
  const { object } = await generateObject({ ...asked, schema });
  assert.equal(typeof object.present, "boolean");
});

test("refusals are the client's own exceptions, an aborted stream ends", async () => {
  await assert.rejects(generateText({ ...asked, model: provider("other") }), (error) => APICallError.isInstance(error) && error.statusCode === 404);
  const leave = new AbortController();
  const result = streamText({ model, prompt: "Hello!", maxOutputTokens: 8000, temperature: 50, maxRetries: 0, abortSignal: leave.signal, providerOptions: { medgemma: { ignore_eos: true } } });
  for await (const _ of result.textStream) break;
  leave.abort();
  await server.idle();
});
