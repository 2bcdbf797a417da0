// Open WebUI before `medgemma serve demo`, driven in Chromium: an account, the model chosen, a chat that streams. Not part of
// run.sh: Open WebUI is large. Its packages go into an environment of their own, and Playwright is the workbench's:
//
//   python3.11 -m venv VENV && VENV/bin/pip install open-webui==0.12.4; (cd web && npm ci)
//   OPEN_WEBUI=VENV/bin/open-webui node tests/clients/open-webui.mjs [SCREENSHOT.png]
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";

const { chromium } = createRequire(new URL("../../web/package.json", import.meta.url))("@playwright/test");
const { OPEN_WEBUI, MEDGEMMA = new URL("../../target/release/medgemma", import.meta.url).pathname, CHROMIUM = "/usr/bin/chromium" } = process.env;
assert(OPEN_WEBUI, "OPEN_WEBUI names the program open-webui");
const [MODEL, PAGE] = [18961, 18962];
const data = await mkdtemp(join(tmpdir(), "open-webui-"));
const settings = {
  OPENAI_API_BASE_URL: `http://127.0.0.1:${MODEL}/v1`, OPENAI_API_KEY: "none", ENABLE_OLLAMA_API: "false", DATA_DIR: data, WEBUI_SECRET_KEY: "of-the-test",
  // Nothing is fetched, and no model of its own is loaded.
  OFFLINE_MODE: "true", HF_HUB_OFFLINE: "1", RAG_EMBEDDING_ENGINE: "openai", ENABLE_VERSION_UPDATE_CHECK: "false", ANONYMIZED_TELEMETRY: "false", DO_NOT_TRACK: "true",
};
const begun = [
  spawn(MEDGEMMA, ["serve", "demo", "--port", String(MODEL)], { stdio: "ignore" }),
  spawn(OPEN_WEBUI, ["serve", "--host", "127.0.0.1", "--port", String(PAGE)], { stdio: "ignore", env: { ...process.env, ...settings } }),
];
let browser;
try {
  for (const port of [MODEL, PAGE]) {
    const healthy = () => fetch(`http://127.0.0.1:${port}/health`).then(({ ok }) => ok, () => false);
    for (let tries = 0; !(await healthy()); tries += 1) {
      assert(tries < 300 && begun.every(({ exitCode }) => exitCode === null), `nothing answers on ${port}`);
      await new Promise((done) => setTimeout(done, 500));
    }
  }
  browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox", "--disable-gpu"] });
  const page = await browser.newPage({ viewport: { width: 1280, height: 820 } });
  page.setDefaultTimeout(60_000);
  await page.goto(`http://127.0.0.1:${PAGE}/auth`);
  await page.getByRole("button", { name: "Get started" }).click();
  await page.locator("#name").fill("A reader");
  await page.locator("#email").fill("reader@localhost.example");
  await page.locator("#password").fill("a-password-of-the-test");
  await page.getByRole("button", { name: "Create Admin Account" }).click();
  await page.getByRole("button", { name: "Okay, Let's Go!" }).click();
  await page.locator("#model-selector-model-button").click();
  await page.getByRole("option", { name: "demo" }).first().click();
  const streamed = page.waitForRequest((request) => request.url().endsWith("/api/chat/completions") && request.postDataJSON().stream === true);
  await page.locator("#chat-input").fill("What is a pleural effusion?");
  await page.keyboard.press("Enter");
  assert.equal((await streamed).postDataJSON().model, "demo");
  const answer = page.locator(".chat-assistant").last();
  await page.getByText("Response complete").waitFor();
  assert.match(await answer.innerText(), /[a-z]{2}/);
  if (process.argv[2]) await page.screenshot({ path: process.argv[2] });
  console.log(`answered: ${(await answer.innerText()).trim()}`);
} finally {
  await browser?.close();
  for (const child of begun.filter(({ exitCode }) => exitCode === null)) {
    child.kill();
    await once(child, "exit");
  }
  await rm(data, { recursive: true, force: true });
}
