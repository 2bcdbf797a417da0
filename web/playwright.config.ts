import { defineConfig } from "@playwright/test";

// MEDGEMMA_URL: a running `medgemma serve demo` for tests/server.spec.ts, which is skipped without it.
const port = 8791;

export default defineConfig({
  testDir: "tests",
  outputDir: "test-results",
  workers: 1,
  use: {
    baseURL: `http://127.0.0.1:${port}`,
    viewport: { width: 1280, height: 820 },
    launchOptions: {
      executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
      args: ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
    },
  },
  webServer: { command: `PORT=${port} node tests/mock-server.mjs`, url: `http://127.0.0.1:${port}`, reuseExistingServer: false },
});
