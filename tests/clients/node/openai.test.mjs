// openai, Node.
import assert from "node:assert/strict";
import { after, test } from "node:test";
import OpenAI from "openai";
import { seen, serve } from "./server.mjs";

const server = await serve();
const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "none", maxRetries: 0 });
const { text, url, answer } = await seen("presence-002");
const messages = [{ role: "user", content: [{ type: "image_url", image_url: { url } }, { type: "text", text }] }];
const asked = { model: "demo", messages, temperature: 0, max_tokens: 60 };
after(() => server.end());

test("a picture is seen", async () => {
  const whole = await client.chat.completions.create({ ...asked, logprobs: true, top_logprobs: 2 });
  assert.equal(whole.choices[0].message.content, answer);
  assert.ok(whole.usage.prompt_tokens > 64);
  assert.ok(whole.choices[0].logprobs.content.every(({ logprob, top_logprobs }) => logprob <= 0 && top_logprobs.length === 2));
});

test("a stream is the answer in pieces", async () => {
  const stream = await client.chat.completions.create({ ...asked, stream: true, stream_options: { include_usage: true } });
  let [text, usage] = ["", null];
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(text, answer);
  assert.ok(usage.completion_tokens > 5);
});

test("events of responses", async () => {
  const kinds = [];
  const stream = client.responses.stream({ model: "demo", input: "Hello!", temperature: 0, max_output_tokens: 40 });
  for await (const event of stream) kinds.push(event.type);
  assert.equal(kinds.at(-1), "response.completed");
  assert.ok((await stream.finalResponse()).output_text.length > 0);
});

test("refusals are the client's own exceptions", async () => {
  await assert.rejects(client.chat.completions.create({ ...asked, model: "gpt-4o" }), OpenAI.NotFoundError);
  await assert.rejects(client.chat.completions.create({ ...asked, temperature: -1 }), (error) => error instanceof OpenAI.BadRequestError && error.param === "temperature");
});

test("an aborted request ends", async () => {
  const endless = { model: "demo", messages: [{ role: "user", content: "Hello!" }], max_tokens: 8000, ignore_eos: true, temperature: 50, stream: true };
  const stream = await client.chat.completions.create(endless);
  for await (const _ of stream) break;
  stream.controller.abort();
  await server.idle();
});
