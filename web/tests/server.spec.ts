import { expect, test, type Page } from "@playwright/test";
import { spawn, type ChildProcess } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

const IMAGES = new URL("../../demo-model/heldout/images/", import.meta.url).pathname;

/** What the browser refuses, a policy violation among it, arrives as a console error. */
const problems: string[] = [];
test.beforeEach(async ({ page }) => {
  problems.length = 0;
  page.on("pageerror", (error) => problems.push(error.message));
  page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
  await page.goto("/");
  await expect(page.getByLabel("Model card: demo")).toBeVisible();
});
test.afterEach(() => expect(problems).toEqual([]));

/** Drops a file on the page, as a file manager does. */
async function drop(page: Page, name: string): Promise<void> {
  const base64 = await readFile(`${IMAGES}${name}`, "base64");
  const data = await page.evaluateHandle(
    ([base64, name]) => {
      const data = new DataTransfer();
      data.items.add(new File([Uint8Array.from(atob(base64!), (char) => char.charCodeAt(0))], name!, { type: "image/png" }));
      return data;
    },
    [base64, name],
  );
  for (const type of ["dragenter", "dragover", "drop"]) await page.dispatchEvent("body", type, { dataTransfer: data });
  await expect(page.getByLabel("Images to send, in this order").getByRole("listitem")).toHaveCount(1);
}

/** What the browser says in its console of requests that a test has fail. */
function forgive(problem: RegExp): void {
  problems.splice(0, problems.length, ...problems.filter((one) => !problem.test(one)));
}

/** A server of its own, and its address once it is ready. */
async function serve(...options: string[]): Promise<{ server: ChildProcess; url: string }> {
  const server = spawn(process.env.MEDGEMMA ?? "../target/release/medgemma", ["serve", "demo", "--port", "0", ...options], { stdio: ["ignore", "ignore", "pipe"] });
  let url = "";
  for await (const line of createInterface(server.stderr!)) {
    url ||= /http:\/\/[\d.]+:\d+/.exec(line)?.[0] ?? "";
    if (line.startsWith("Ready")) break;
  }
  return { server, url };
}

async function ask(page: Page, text: string): Promise<void> {
  await page.getByLabel("Your question", { exact: true }).fill(text);
  await page.keyboard.press("Enter");
}

const answer = (page: Page) => page.getByLabel("Answer of the model").last();

test("a dropped image is seen, its finding boxed, asked about again and exported", async ({ page }) => {
  await page.getByRole("button", { name: "Settings" }).click();
  await page.getByLabel(/Temperature/).fill("0");
  await page.keyboard.press("Escape");
  await drop(page, "cxr-000.png");
  await page.getByRole("button", { name: "Boxes" }).click();
  await ask(page, "Where is the opacity?");
  await expect(page.getByRole("button", { name: "Retry" })).toBeVisible();
  await expect(answer(page)).toContainText("opacity in the right mid zone");
  // The held-out case says [320, 225, 495, 380] of 1000, on a picture of 224: within a few pixels of it.
  const line = page.locator(".boxed .overlay .line").first();
  const at = await line.evaluate((element) => ["x", "y", "width", "height"].map((name) => Number(element.getAttribute(name))));
  [225, 320, 155, 175].forEach((value, index) => expect(Math.abs(at[index]! - (value * 224) / 1000)).toBeLessThan(8));
  await page.screenshot({ path: "screenshots/server-boxes.png" });

  await page.getByRole("button", { name: "Edit" }).click();
  await page.getByLabel("Edit the question").fill("Where is the left lung?");
  await page.getByRole("button", { name: "Ask again" }).click();
  await expect(answer(page)).toContainText("left lung");
  await expect(page.getByLabel("Answer of the model")).toHaveCount(1);
  await page.getByRole("button", { name: "Retry" }).click();
  await expect(page.getByRole("button", { name: "Retry" })).toBeVisible();
  await expect(answer(page)).toContainText("left lung");

  const waiting = page.waitForEvent("download");
  await page.getByRole("button", { name: "Download as Markdown" }).click();
  const text = await readFile((await (await waiting).path())!, "utf8");
  expect(text).toContain("> Not a medical device.");
  expect(text).toContain("cxr-000.png");
  expect(text).toMatch(/box_2d/);
});

test("stop ends an answer, on the server too", async ({ page }) => {
  // A server of its own, which stands still while Stop is pressed: the demo model would have written everything before.
  const { server, url } = await serve();
  try {
    const cancelled = async (): Promise<string> => {
      const metrics = await (await page.request.get(`${url}/metrics`)).text();
      return /^medgemma_requests_ended_total\{reason="cancelled"\} (\d+)/m.exec(metrics)?.[1] ?? "0";
    };
    // The page's own request, but for its end: thousands of tokens that fall into no loop.
    await page.route("**/v1/chat/completions", (route) => {
      const asked = { ...route.request().postDataJSON(), ignore_eos: true, max_completion_tokens: 7000, temperature: 3, top_k: 0, top_p: 1, seed: 1 };
      return route.continue({ postData: JSON.stringify(asked) });
    });
    await page.goto(url);
    await ask(page, "Report this X-ray.");
    // When its words come, and not the heading before them; looked for in each frame, as a second later it could be whole.
    await page.waitForFunction(() => {
      const answer = document.querySelector("article.answer");
      return answer !== null && answer.querySelector(".waiting") === null && answer.textContent!.length > "Answer".length;
    });
    server.kill("SIGSTOP");
    await page.getByRole("button", { name: "Stop" }).click();
    await expect(page.getByText("Stopped by you.")).toBeVisible();
    await expect(page.getByRole("button", { name: "Retry" })).toBeVisible();
    server.kill("SIGCONT");
    await expect.poll(cancelled).toBe("1");
    await page.unroute("**/v1/chat/completions");
    await page.getByRole("button", { name: "Retry" }).click();
    await expect(page.getByText("Stopped by you.")).toHaveCount(0);
    await expect(page.getByRole("button", { name: "Retry" })).toBeVisible();
  } finally {
    server.kill("SIGCONT");
    server.kill("SIGKILL");
  }
});

test("conversations are kept on the server where it was told to, for every browser of their owner", async ({ page, browser }) => {
  const folder = await mkdtemp(join(tmpdir(), "medgemma-"));
  const { server, url } = await serve("--sessions", join(folder, "sessions.db"));
  try {
    await page.goto(url);
    await expect(page.getByText("On the server, as its operator has set up")).toBeVisible();
    await drop(page, "cxr-000.png");
    await ask(page, "Describe this X-ray.");
    await expect(page.getByRole("button", { name: "Retry" })).toBeVisible();
    const said = await answer(page).textContent();

    // Another browser, which has nothing of it.
    const other = await (await browser.newContext()).newPage();
    await other.goto(url);
    await other.getByRole("navigation").getByTitle("Describe this X-ray.").click();
    await expect(answer(other)).toHaveText(said!);
    const picture = other.getByLabel(/Open cxr-000/).locator("img");
    await expect.poll(() => picture.evaluate((img: HTMLImageElement) => img.naturalWidth)).toBeGreaterThan(0);
    await other.screenshot({ path: "screenshots/server-kept.png" });
    await ask(other, "What is the hallmark sign of it?");
    await expect(other.getByLabel("Answer of the model")).toHaveCount(2);
    await expect(other.getByRole("button", { name: "Retry" })).toHaveCount(2);

    // The first one goes on from what it has seen: neither loses anything.
    await ask(page, "Is the heart large?");
    await expect(page.getByRole("button", { name: "Retry" })).toHaveCount(2);
    await expect(page.getByRole("navigation").getByRole("listitem")).toHaveCount(2);
    await page.evaluate(() => window.dispatchEvent(new Event("focus")));
    await expect(page.getByRole("navigation").getByRole("listitem")).toHaveCount(2);

    await page.getByRole("button", { name: "Delete all" }).click();
    await page.getByRole("button", { name: "Delete 2" }).click();
    await expect(page.getByRole("navigation").getByRole("listitem")).toHaveCount(0);
    await other.evaluate(() => window.dispatchEvent(new Event("focus")));
    await expect(other.getByRole("navigation").getByRole("listitem")).toHaveCount(0);
    await other.context().close();
    const kept = await (await page.request.get(`${url}/v1/sessions`)).json();
    expect(kept.data).toEqual([]);
  } finally {
    server.kill("SIGKILL");
    await rm(folder, { recursive: true, force: true });
  }
  // A save was refused, as another one had come before it.
  forgive(/status of 409/);
});

test("what the server can't keep or delete stays, and is tried again", async ({ page, browser }) => {
  const folder = await mkdtemp(join(tmpdir(), "medgemma-"));
  const { server, url } = await serve("--sessions", join(folder, "sessions.db"));
  const focus = (): Promise<boolean> => page.evaluate(() => window.dispatchEvent(new Event("focus")));
  const answers = page.getByLabel("Answer of the model");
  const retries = page.getByRole("button", { name: "Retry" });
  try {
    // One whose page was closed while its answer was being written.
    const turns = [
      { role: "user", id: "u", text: "What was asked before?", pictures: [], locate: false, at: 1 },
      { role: "assistant", id: "a", text: "Half an ans", thought: "", finish: null, model: "demo", at: 2 },
    ];
    const session = { id: "s0", title: "What was asked before?", turns, updated: 3, system: "" };
    await page.request.put(`${url}/v1/sessions/s0`, { data: { session } });
    await page.goto(url);
    await page.getByRole("navigation").getByTitle("What was asked before?").click();
    await expect(page.getByText("The page was closed before this answer was complete.")).toBeVisible();

    await page.getByRole("button", { name: "New conversation" }).click();
    await ask(page, "What is the hallmark sign of an effusion?");
    await expect(retries).toHaveCount(1);
    await page.route("**/v1/sessions/**", (route) => route.abort());
    await ask(page, "Is the heart large?");
    await expect(retries).toHaveCount(2);
    await expect(page.getByText(/^Not kept: /)).toBeVisible();
    await focus();
    await page.waitForTimeout(300);
    await expect(answers).toHaveCount(2);
    await page.getByLabel("Delete “What is the hallmark sign of an effusion?”").click();
    await page.getByRole("button", { name: "Delete", exact: true }).click();
    await expect(page.getByText(/^Not deleted: /)).toBeVisible();
    await page.unroute("**/v1/sessions/**");
    await ask(page, "And the lungs?");
    await expect(retries).toHaveCount(3);
    await expect(page.getByText(/^Not (kept|deleted): /)).toHaveCount(0);

    const other = await (await browser.newContext()).newPage();
    await other.goto(url);
    await other.getByRole("navigation").getByTitle("What is the hallmark sign of an effusion?").click();
    await expect(other.getByLabel("Answer of the model")).toHaveCount(3);
    await other.context().close();
  } finally {
    server.kill("SIGKILL");
    await rm(folder, { recursive: true, force: true });
  }
  forgive(/ERR_FAILED/);
});
