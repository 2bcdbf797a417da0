// Open WebUI before `medgemma serve demo`, driven in Chromium: an account, the model chosen, a chat that streams, and one
// with a picture. See run.sh, which says where OPEN_WEBUI, MEDGEMMA and CHROMIUM are.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const { chromium } = createRequire(new URL("../../../web/package.json", import.meta.url))("@playwright/test");
const { OPEN_WEBUI, MEDGEMMA, CHROMIUM } = process.env;
const PICTURE = fileURLToPath(new URL("../../../demo-model/heldout/images/cxr-071.png", import.meta.url));

/** A program that is stopped at the end; `said` is what it has written. */
function begin(program, args, env = {}) {
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"], env: { ...process.env, ...env } });
  child.said = "";
  child.ended = new Promise((done) => child.on("exit", done).on("error", done)).then(() => (child.isOver = true));
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (more) => (child.said += more));
  begun.push(child);
  return child;
}

/** Waits until `ready` is something, while `child` lives. */
async function until(child, ready) {
  for (let tries = 0; tries < 600; tries += 1) {
    const found = await ready();
    if (found) return found;
    assert(!child.isOver, `it ended: ${child.said}`);
    await new Promise((done) => setTimeout(done, 200));
  }
  assert.fail(`it isn't ready after two minutes: ${child.said}`);
}

async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  await new Promise((done) => server.close(done));
  return port;
}

/** Asks in the chat that is open, and waits for the end of the answer. */
async function ask(page, text) {
  const answers = page.locator(".chat-assistant");
  const before = await answers.count();
  const request = page.waitForRequest((request) => request.url().endsWith("/api/chat/completions"));
  await page.locator("#chat-input").fill(text);
  await page.keyboard.press("Enter");
  const body = (await request).postDataJSON();
  assert.deepEqual([body.model, body.stream], ["demo", true]);
  await answers.nth(before).waitFor();
  await page.getByRole("button", { name: "Stop" }).waitFor({ state: "detached" });
  await page.locator(".copy-response-button").nth(before).waitFor({ state: "attached" });
  return (await answers.nth(before).innerText()).trim();
}

const begun = [];
const data = await mkdtemp(join(tmpdir(), "open-webui-"));
let browser;
try {
  const medgemma = begin(MEDGEMMA, ["serve", "demo", "--port", "0"]);
  const address = await until(medgemma, () => /http:\/\/[\d.]+:\d+/.exec(medgemma.said)?.[0]);
  const port = await freePort();
  const webui = begin(OPEN_WEBUI, ["serve", "--host", "127.0.0.1", "--port", String(port)], {
    OPENAI_API_BASE_URL: `${address}/v1`, OPENAI_API_KEY: "none", ENABLE_OLLAMA_API: "false", DATA_DIR: data, WEBUI_SECRET_KEY: "of-the-test",
    // Nothing is fetched, and no model of its own is loaded.
    OFFLINE_MODE: "true", HF_HUB_OFFLINE: "1", RAG_EMBEDDING_ENGINE: "openai", ENABLE_VERSION_UPDATE_CHECK: "false", ANONYMIZED_TELEMETRY: "false", DO_NOT_TRACK: "true",
  });
  const home = `http://127.0.0.1:${port}`;
  await until(webui, () => fetch(`${home}/health`).then(({ ok }) => ok, () => false));

  browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox", "--disable-gpu"] });
  const page = await browser.newPage({ viewport: { width: 1280, height: 820 } });
  page.setDefaultTimeout(60_000);
  // Pieces of answers come to the page over its socket.
  const frames = [];
  page.on("websocket", (socket) => socket.on("framereceived", ({ payload }) => frames.push(String(payload))));
  await page.goto(`${home}/auth`);
  await page.getByRole("button", { name: "Get started" }).click();
  await page.locator("#name").fill("A reader");
  await page.locator("#email").fill("reader@localhost.example");
  await page.locator("#password").fill("a-password-of-the-test");
  await page.getByRole("button", { name: "Create Admin Account" }).click();
  await page.getByRole("button", { name: "Okay, Let's Go!" }).click();
  await page.locator("#model-selector-model-button").click();
  await page.getByRole("option", { name: "demo" }).first().click();

  const answer = await ask(page, "What is a pleural effusion?");
  assert.match(answer, /[a-z]{2}/);
  const pieces = frames.filter((frame) => frame.includes("output_text.delta"));
  assert(pieces.length > 2, `it came in ${pieces.length} pieces`);
  await page.locator("input[type=file]").first().setInputFiles(PICTURE);
  await page.locator("#message-input-container img").first().waitFor();
  const seen = await ask(page, "Describe this image.");
  assert.match(seen, /FINDINGS:.*lung/s);
  if (process.argv[2]) await page.screenshot({ path: process.argv[2] });
  console.log(`answered: ${answer}\nof a picture: ${seen}`);
} finally {
  await browser?.close();
  for (const child of begun) child.kill();
  await Promise.all(begun.map(({ ended }) => ended));
  await rm(data, { recursive: true, force: true });
}
