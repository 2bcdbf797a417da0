import { defineConfig } from "@playwright/test";
import { existsSync } from "node:fs";

const MOCK = 8791;
const SERVER = 8792;
/** The program with the workbench in it; without it, as before the first `cargo build`, only the mock is asked. */
const MEDGEMMA = process.env.MEDGEMMA ?? "../target/release/medgemma";
const real = existsSync(MEDGEMMA);
if (!real) console.warn(`${MEDGEMMA} isn't there: the tests of tests/server.spec.ts are left out`);

const mock = { command: `PORT=${MOCK} node tests/mock-server.mjs`, url: `http://127.0.0.1:${MOCK}`, reuseExistingServer: false };
const server = { command: `${MEDGEMMA} serve demo --port ${SERVER}`, url: `http://127.0.0.1:${SERVER}/health`, reuseExistingServer: false };

export default defineConfig({
  testDir: "tests",
  outputDir: "test-results",
  workers: 1,
  use: {
    viewport: { width: 1280, height: 820 },
    launchOptions: {
      executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
      args: ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
    },
  },
  projects: [
    // Scripted answers, so that the page's tests can have failures and slow streams.
    { name: "mock", testMatch: "workbench.spec.ts", use: { baseURL: `http://127.0.0.1:${MOCK}` } },
    // `medgemma serve demo`: the page as it is embedded, the model's own answers.
    ...(real ? [{ name: "server", testMatch: "server.spec.ts", use: { baseURL: `http://127.0.0.1:${SERVER}` } }] : []),
  ],
  webServer: real ? [mock, server] : mock,
});
