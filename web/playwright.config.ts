import { defineConfig } from "@playwright/test";

// The tests talk to the mock server in tests/, which answers as `medgemma serve` does.
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
