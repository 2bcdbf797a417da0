import AxeBuilder from "@axe-core/playwright";
import { expect, test, type Page } from "@playwright/test";

const IMAGES = new URL("../../demo-model/heldout/images/", import.meta.url).pathname;
const WIDE = new URL("../../testdata/images/wide-700x300.png", import.meta.url).pathname;

/** Whatever the browser refuses or reports is a failure of the page: policy violations arrive as console errors. */
const problems: string[] = [];
test.beforeEach(async ({ page }) => {
  problems.length = 0;
  page.on("pageerror", (error) => problems.push(error.message));
  page.on("console", (message) => {
    if (message.type() === "error" && !/status of (4|5)\d\d|ERR_/.test(message.text())) problems.push(message.text());
  });
  page.on("request", (request) => {
    if (!/^(blob:)?http:\/\/127\.0\.0\.1/.test(request.url())) problems.push(`request to ${request.url()}`);
  });
  await page.goto("/");
  await expect(page.getByLabel(/Model card: medgemma/)).toBeVisible();
});
test.afterEach(() => expect(problems).toEqual([]));

async function ask(page: Page, text: string): Promise<void> {
  await page.getByLabel("Your question", { exact: true }).fill(text);
  await page.keyboard.press("Enter");
}

async function done(page: Page): Promise<void> {
  await expect(page.getByRole("button", { name: "Stop" })).toHaveCount(0);
}

const lastRequest = async (page: Page) => (await (await page.request.get("/seen")).json()).at(-1);

test("an answer streams, is set from markdown, and nothing in it becomes HTML", async ({ page }) => {
  await ask(page, "Describe this X-ray.");
  await done(page);
  const answer = page.getByLabel("Answer of the model");
  await expect(answer.getByRole("heading", { name: "Findings" })).toBeVisible();
  await expect(answer.getByRole("table")).toContainText("12 mg/L");
  await expect(answer.locator("cite")).toHaveText("Observation/o254");
  await expect(answer.locator("img")).toHaveCount(0);
  await expect(answer).toContainText("<img src=x onerror=alert(1)>");
});

test("the thought is folded away, and asked for only when wanted", async ({ page }) => {
  await page.getByRole("button", { name: "Think" }).click();
  await ask(page, "Describe this X-ray.");
  await done(page);
  await expect(page.getByText("Heart first")).toBeHidden();
  await page.getByText("Thought", { exact: true }).click();
  await expect(page.getByText("Heart first")).toBeVisible();
  expect((await lastRequest(page)).chat_template_kwargs.enable_thinking).toBe(true);
});

test("stop keeps what came; retry and edit ask anew", async ({ page }) => {
  await ask(page, "slow please");
  await expect(page.getByLabel("Answer of the model")).toContainText("word word");
  await page.getByRole("button", { name: "Stop" }).click();
  await expect(page.getByText("Stopped by you.")).toBeVisible();
  await page.getByRole("button", { name: "Edit" }).click();
  await page.getByLabel("Edit the question").fill("Describe it");
  await page.getByRole("button", { name: "Ask again" }).click();
  await done(page);
  await expect(page.getByRole("heading", { name: "Findings" })).toHaveCount(1);
  await page.getByRole("button", { name: "Retry" }).click();
  await done(page);
  await expect(page.getByLabel("Answer of the model")).toHaveCount(1);
  expect((await lastRequest(page)).messages).toEqual([{ role: "user", content: "Describe it" }]);
});

test("retry of an earlier answer asks before it takes away what follows", async ({ page }) => {
  await ask(page, "Describe this X-ray.");
  await done(page);
  await ask(page, "cut");
  await done(page);
  const answers = page.getByLabel("Answer of the model");
  const retry = page.getByRole("button", { name: "Retry", exact: true });
  await retry.first().click();
  await page.getByRole("button", { name: "Keep", exact: true }).click();
  await expect(retry).toHaveCount(2);
  await expect(answers).toHaveCount(2);
  await retry.first().click();
  await expect(page.getByText("What follows is deleted.")).toBeVisible();
  await page.getByRole("button", { name: "Retry and delete" }).click();
  await done(page);
  await expect(answers).toHaveCount(1);
  expect((await lastRequest(page)).messages).toEqual([{ role: "user", content: "Describe this X-ray." }]);
});

test("Enter sends a question that is edited, too; Shift+Enter is a new line", async ({ page }) => {
  await ask(page, "cut");
  await done(page);
  const field = page.getByLabel("Edit the question");
  await page.getByRole("button", { name: "Edit" }).click();
  await field.fill("Describe");
  await field.press("Shift+Enter");
  await page.keyboard.type("it");
  // A word that an input method is still putting together.
  await field.dispatchEvent("keydown", { key: "Enter", isComposing: true });
  await expect(field).toHaveValue("Describe\nit");
  await page.keyboard.press("Enter");
  await done(page);
  await expect(field).toHaveCount(0);
  expect((await lastRequest(page)).messages).toEqual([{ role: "user", content: "Describe\nit" }]);
});

test("an answer that was read to its end is no failed request", async ({ page }) => {
  const ends: string[] = [];
  const chat = /chat\/completions/;
  page.on("requestfinished", (request) => chat.test(request.url()) && ends.push("finished"));
  page.on("requestfailed", (request) => chat.test(request.url()) && ends.push(request.failure()?.errorText ?? "failed"));
  await ask(page, "Describe this X-ray.");
  await done(page);
  await expect.poll(() => ends).toEqual(["finished"]);
  // A server that leaves the connection open after the answer doesn't hold up the page, which closes it.
  await ask(page, "linger");
  await expect(page.getByText("All of it")).toBeVisible();
  await expect(page.getByRole("button", { name: "Retry" })).toHaveCount(2);
  await expect.poll(() => ends).toEqual(["finished", "net::ERR_ABORTED"]);
  // As it is where the reader stops it.
  await ask(page, "slow please");
  await expect(page.getByLabel("Answer of the model").last()).toContainText("word");
  await page.getByRole("button", { name: "Stop" }).click();
  await expect.poll(() => ends.length).toBe(3);
  expect(ends[2]).toBe("net::ERR_ABORTED");
});

test("the reader hears how an answer ended", async ({ page }) => {
  await ask(page, "cut");
  await expect(page.getByText("Cut off: the limit of tokens was reached.")).toBeVisible();
  await ask(page, "break");
  await expect(page.getByText("The connection to the server broke off.")).toBeVisible();
  await expect(page.getByText("Half an ans")).toBeVisible();
  await ask(page, "too busy");
  await expect(page.getByText("The queue is full. Try again in 3 seconds.")).toBeVisible();
});

test("several pictures are sent in order; one that is no square is padded to one", async ({ page }) => {
  await page.getByLabel("Choose images").setInputFiles([`${IMAGES}cxr-060.png`, WIDE]);
  await expect(page.getByLabel("Images to send, in this order").getByRole("listitem")).toHaveCount(2);
  await page.getByRole("button", { name: "Move wide-700x300.png earlier" }).click();
  await ask(page, "Compare");
  await done(page);
  const parts = (await lastRequest(page)).messages[0].content;
  expect(parts.map(({ type }: { type: string }) => type)).toEqual(["image_url", "image_url", "text"]);
  const sizes = await page.evaluate(async (urls: string[]) => {
    const size = (url: string) =>
      new Promise<number[]>((done, fail) => {
        const bytes = Uint8Array.from(atob(url.split(",")[1]!), (char) => char.charCodeAt(0));
        createImageBitmap(new Blob([bytes])).then(({ width, height }) => done([width, height]), fail);
      });
    return Promise.all(urls.map(size));
  }, parts.slice(0, 2).map((part: { image_url: { url: string } }) => part.image_url.url));
  expect(sizes).toEqual([[700, 700], [224, 224]]);
});

test("a file that is no picture is refused in words", async ({ page }) => {
  const refused = page.getByRole("alert");
  const goes = [
    () => page.getByLabel("Choose images").setInputFiles(`${IMAGES}cxr-000.png`),
    () => page.getByLabel("Your question", { exact: true }).pressSequentially("D"),
    () => page.getByRole("button", { name: "New conversation" }).click(),
  ];
  for (const go of goes) {
    await page.getByLabel("Choose images").setInputFiles({ name: "a.png", mimeType: "image/png", buffer: Buffer.from("no") });
    await expect(refused).toHaveText("a.png can't be read as a picture.");
    await go();
    await expect(refused).toHaveCount(0);
  }
});

test("boxes are drawn where the answer says, on a padded picture too", async ({ page }) => {
  await page.getByLabel("Choose images").setInputFiles(WIDE);
  await page.getByRole("button", { name: "Boxes" }).click();
  await ask(page, "Where is the opacity?");
  await done(page);
  // Box [320, 225, 495, 380] on a square of 700 with 200 of padding above: x 157.5–266, y 24–146.5.
  const rect = page.locator(".boxed .overlay .line").first();
  const at = await rect.evaluate((element) => ["x", "y", "width", "height"].map((name) => Number(element.getAttribute(name))));
  [157.5, 24, 108.5, 122.5].forEach((value, index) => expect(at[index]).toBeCloseTo(value, 6));
  await expect(page.getByText("There is an opacity in the right mid zone.")).toBeVisible();
  await expect(page.locator(".box-list").first()).toContainText("opacity");
  expect((await lastRequest(page)).messages[0].content[1].text).toContain("box_2d");
});

test("the viewer zooms, moves, windows and hides boxes", async ({ page }) => {
  await page.getByLabel("Choose images").setInputFiles(`${IMAGES}cxr-000.png`);
  await page.getByRole("button", { name: "Boxes" }).click();
  await ask(page, "Where is the opacity?");
  await done(page);
  await page.getByRole("button", { name: /in the viewer/ }).last().click();
  const dialog = page.getByRole("dialog");
  const stage = dialog.getByRole("application");
  const pixel = () => dialog.locator("canvas").evaluate((canvas: HTMLCanvasElement) => [...canvas.getContext("2d")!.getImageData(112, 112, 1, 1).data]);
  await expect.poll(async () => (await pixel())[3]).toBe(255);
  const before = await pixel();
  await stage.focus();
  await page.keyboard.press("i");
  await expect.poll(pixel).toEqual([255 - before[0]!, 255 - before[1]!, 255 - before[2]!, 255]);
  await page.keyboard.press("i");
  await dialog.getByRole("slider", { name: "Window" }).fill("1");
  await expect.poll(async () => [0, 255].includes((await pixel())[0]!)).toBe(true);
  const zoom = () => dialog.getByLabel("Zoom", { exact: true }).innerText().then((text) => Number.parseInt(text, 10));
  const fitted = await zoom();
  await stage.focus();
  await page.keyboard.press("+");
  expect(await zoom()).toBeGreaterThan(fitted);
  const place = () => dialog.locator(".sheet").evaluate((element: HTMLElement) => element.style.transform);
  const here = await place();
  const box = (await stage.boundingBox())!;
  await page.mouse.move(box.x + 200, box.y + 200);
  await page.mouse.down();
  await page.mouse.move(box.x + 260, box.y + 230);
  await page.mouse.up();
  expect(await place()).not.toBe(here);
  await expect(dialog.locator(".sheet .line")).toHaveCount(2);
  await page.keyboard.press("b");
  await expect(dialog.locator(".sheet .line")).toHaveCount(0);
  await page.keyboard.press("Escape");
  await expect(dialog).toHaveCount(0);
});

test.describe("on a phone", () => {
  test.use({ viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true });

  test("the viewer says what it changes and what fingers do, all of it in sight", async ({ page }) => {
    await page.getByLabel("Choose images").setInputFiles([`${IMAGES}cxr-000.png`, `${IMAGES}cxr-060.png`]);
    await page.getByRole("button", { name: "Boxes" }).click();
    await ask(page, "Where is the opacity?");
    await done(page);
    await page.getByRole("button", { name: /in the viewer/ }).last().click();
    const side = page.getByLabel("Viewer settings");
    await expect(side.getByText(/^This changes what you see, not what the model saw\./)).toBeInViewport({ ratio: 1 });
    await expect(side.getByText("Drag with one finger")).toBeInViewport({ ratio: 1 });
    await expect(side.getByText("right button")).toBeHidden();
    expect(await side.evaluate(({ scrollHeight, clientHeight }) => scrollHeight - clientHeight)).toBeLessThanOrEqual(0);
    await page.screenshot({ path: "screenshots/viewer-phone.png" });
  });
});

test("conversations stay in this browser until they are deleted", async ({ page }) => {
  await page.getByLabel("Choose images").setInputFiles(`${IMAGES}cxr-000.png`);
  await ask(page, "Describe this X-ray.");
  await done(page);
  await expect(page.getByRole("button", { name: "Retry" })).toBeVisible();
  await page.reload();
  await page.getByRole("navigation").getByRole("button", { name: /^Describe this X-ray/ }).click();
  await expect(page.getByRole("heading", { name: "Findings" })).toBeVisible();
  await expect(page.locator(".question .thumb img")).toBeVisible();
  await page.getByRole("button", { name: "Delete all" }).click();
  await page.getByRole("button", { name: "Delete 1" }).click();
  await expect(page.locator(".sessions li")).toHaveCount(0);
  await page.reload();
  await expect(page.getByLabel(/Model card: medgemma/)).toBeVisible();
  await expect(page.locator(".sessions li")).toHaveCount(0);
});

test("one conversation is deleted only when the reader is sure", async ({ page }) => {
  await ask(page, "Describe this X-ray.");
  await done(page);
  const remove = page.getByRole("button", { name: "Delete “Describe this X-ray.”" });
  await remove.click();
  await page.getByRole("button", { name: "Keep", exact: true }).click();
  await expect(page.getByRole("heading", { name: "Findings" })).toBeVisible();
  await remove.click();
  await page.getByRole("button", { name: "Delete", exact: true }).click();
  await expect(page.locator(".sessions li")).toHaveCount(0);
});

test("two tabs show each other's conversations and overwrite none", async ({ page, context }) => {
  await ask(page, "Describe this X-ray.");
  await done(page);
  const other = await context.newPage();
  await other.goto("/");
  const list = (one: Page) => one.locator(".sessions li");
  await expect(list(other)).toHaveCount(1);
  // What one writes, the other shows.
  await list(other).getByRole("button", { name: /^Describe this/ }).click();
  await ask(other, "And then?");
  await done(other);
  await expect(page.locator(".said").last()).toHaveText("And then?");
  // Both go on at once from there: each keeps what it wrote.
  await ask(page, "slow, in the first tab");
  await expect(page.getByLabel("Answer of the model").last()).toContainText("word");
  await ask(other, "In the second tab");
  await done(other);
  await page.getByRole("button", { name: "Stop" }).click();
  await done(page);
  for (const tab of [page, other]) await expect(list(tab)).toHaveCount(2);
  await page.reload();
  await expect(list(page)).toHaveCount(2);
  const lasts = [];
  for (const at of [0, 1]) {
    await list(page).nth(at).locator(".open-session").click();
    await expect(list(page).nth(at)).toHaveClass("current");
    lasts.push(await page.locator(".said").last().innerText());
  }
  expect(lasts.sort()).toEqual(["In the second tab", "slow, in the first tab"]);
  // What one deletes is gone from the other.
  await page.getByRole("button", { name: "Delete all" }).click();
  await page.getByRole("button", { name: "Delete 2" }).click();
  for (const tab of [page, other]) await expect(list(tab)).toHaveCount(0);
  await expect(other.getByRole("heading", { name: "New conversation" })).toBeVisible();
  await other.close();
});

/** Holds the page's database from its turn on, until the function that it gives is called. */
async function hold(page: Page): Promise<() => Promise<void>> {
  const held = await page.evaluateHandle(async () => {
    const database = await new Promise<IDBDatabase>((done) => {
      const opening = indexedDB.open("medgemma", 1);
      opening.onsuccess = () => done(opening.result);
    });
    const store = database.transaction(["sessions", "pictures"], "readwrite").objectStore("sessions");
    const state = { held: true };
    const go = (): void => void (store.count().onsuccess = () => state.held && go());
    go();
    return state;
  });
  return () => held.evaluate((state) => void (state.held = false));
}

test("an answer that ends while its conversation becomes one of its own is kept whole", async ({ page, context }) => {
  await ask(page, "Describe this X-ray.");
  await expect(page.getByRole("button", { name: "Retry" })).toBeVisible();
  const other = await context.newPage();
  await other.goto("/");
  await other.locator(".open-session").click();
  await ask(other, "slow, in the other tab");
  await expect(other.getByLabel("Answer of the model").last()).toContainText("word");
  // The first tab goes on, too. The database is slow: it keeps the question, and then lets nobody read.
  const first = await hold(other);
  await ask(page, "slow, in the first tab");
  await expect(page.getByLabel("Answer of the model").last()).toContainText("word");
  const second = await hold(other);
  const kept = other.evaluate(() => new Promise((done) => new BroadcastChannel("medgemma").addEventListener("message", done, { once: true })));
  await first();
  await kept;
  await page.getByRole("button", { name: "Stop" }).click();
  await second();
  await done(page);
  await other.getByRole("button", { name: "Stop" }).click();
  await done(other);
  for (const tab of [page, other]) await expect(tab.locator(".sessions li")).toHaveCount(2);
  await page.reload();
  for (const at of [0, 1]) {
    await page.locator(".open-session").nth(at).click();
    await expect(page.locator(".sessions li").nth(at)).toHaveClass("current");
    await expect(page.getByLabel("Answer of the model").last()).toContainText("Stopped by you.");
  }
  await other.close();
});

test("nothing is kept when the reader wants nothing kept", async ({ page }) => {
  await page.getByLabel("Keep conversations").uncheck();
  await ask(page, "Describe this X-ray.");
  await done(page);
  await expect(page.locator(".sessions li")).toHaveCount(1);
  await page.reload();
  await expect(page.getByText("Nothing is kept")).toBeVisible();
  await expect(page.locator(".sessions li")).toHaveCount(0);
});

test("the conversation downloads as Markdown with the notice on top", async ({ page }) => {
  await ask(page, "Describe this X-ray.");
  await done(page);
  const waiting = page.waitForEvent("download");
  await page.getByRole("button", { name: "Download as Markdown" }).click();
  const download = await waiting;
  expect(download.suggestedFilename()).toBe("Describe-this-X-ray.md");
  const text = await (await import("node:fs/promises")).readFile((await download.path())!, "utf8");
  expect(text).toMatch(/^# Describe this X-ray\.\n\n> Not a medical device\./);
  expect(text).toContain("[Observation/o254]");
});

test("the demo model is said to be a toy where the server says so, whatever its name", async ({ page }) => {
  const toy = page.getByText("This is the demo model, a toy.");
  const card = async (model: object): Promise<void> => {
    await page.route("**/v1/models", (route) => route.fulfill({ json: { object: "list", data: [model] } }));
    await page.reload();
    await page.getByLabel(/^Model card: (ward|demo)/).click();
    await expect(page.getByRole("heading", { name: "Intended use" })).toBeVisible();
  };
  await page.getByLabel(/^Model card/).click();
  await expect(toy).toBeVisible();
  await card({ id: "ward", object: "model", demo: true });
  await expect(toy).toBeVisible();
  await card({ id: "ward", object: "model", capabilities: { vision: true, demo: true } });
  await expect(toy).toBeVisible();
  await card({ id: "demographics", object: "model", capabilities: { vision: true } });
  await expect(toy).toHaveCount(0);
});

test("settings that the server would refuse are not kept", async ({ page }) => {
  const settings = page.getByRole("button", { name: "Settings" });
  const temperature = page.getByLabel(/^Temperature/);
  const tokens = page.getByLabel(/^Most tokens/);
  await settings.click();
  await temperature.fill("-3");
  await expect(page.getByRole("alert")).toHaveText("Give a number from 0 to 2, or leave this empty. Until then the server's own is used.");
  expect((await new AxeBuilder({ page }).analyze()).violations).toEqual([]);
  await page.screenshot({ path: "screenshots/settings-refused.png" });
  await temperature.fill("0.75");
  await expect(page.getByRole("alert")).toHaveCount(0);
  for (const wrong of ["0", "2.5", "10000000"]) {
    await tokens.fill(wrong);
    await expect(page.getByRole("alert")).toHaveText("Give a whole number from 1 to 1,000,000, or leave this empty. Until then the server's own is used.");
  }
  await page.keyboard.press("Escape");
  await expect(page.getByRole("dialog")).toHaveCount(0);
  await ask(page, "Describe this X-ray.");
  await done(page);
  const { temperature: asked, max_completion_tokens } = await lastRequest(page);
  expect([asked, max_completion_tokens]).toEqual([0.75, undefined]);
  // What is in the field next is what is used.
  await settings.click();
  await expect(temperature).toHaveValue("0.75");
  await expect(tokens).toHaveValue("");
  await tokens.fill("200");
  await tokens.fill("");
  await page.keyboard.press("Escape");
  // A page before this one kept what it was told.
  await page.evaluate(() => localStorage.setItem("medgemma.settings", JSON.stringify({ temperature: -3, maxTokens: 0 })));
  await page.reload();
  await settings.click();
  await expect(temperature).toHaveValue("");
  await expect(tokens).toHaveValue("");
});

/** Loads the page anew from a server that wants a key. */
async function lock(page: Page): Promise<void> {
  const good = "Bearer secret";
  const refuse = { status: 401, json: { error: { message: "Bad key.", type: "invalid_request_error" } } };
  await page.route("**/v1/**", (route) => (route.request().headers()["authorization"] === good ? route.continue() : route.fulfill(refuse)));
  await page.reload();
  await expect(page.getByLabel("The server asks for an API key")).toBeFocused();
}

test("a key is asked for, kept for the tab and sent", async ({ page }) => {
  await lock(page);
  await page.keyboard.type("secret");
  await page.keyboard.press("Enter");
  await expect(page.getByLabel(/Model card: medgemma/)).toBeVisible();
  await expect(page.getByRole("dialog")).toHaveCount(0);
  expect(await page.evaluate(() => [sessionStorage.length, JSON.stringify(localStorage).includes("secret")])).toEqual([1, false]);
});

test("a wrong key is said to be wrong, each time", async ({ page }) => {
  await lock(page);
  const said = page.getByRole("alert");
  await expect(said).toHaveCount(0);
  for (const wrong of ["sesame", "open"]) {
    await page.keyboard.type(wrong);
    const asked = page.waitForResponse("**/v1/models");
    await page.keyboard.press("Enter");
    await asked;
    await expect(said).toHaveText("That key isn't known here.");
    await expect(page.getByLabel("The server asks for an API key")).toBeFocused();
  }
  expect((await new AxeBuilder({ page }).analyze()).violations).toEqual([]);
  await page.keyboard.type("secret");
  await page.keyboard.press("Enter");
  await expect(page.getByLabel(/Model card: medgemma/)).toBeVisible();
  await expect(page.getByRole("dialog")).toHaveCount(0);
});

test("a key that was put off is asked for again", async ({ page }) => {
  await lock(page);
  const dialog = page.getByRole("dialog", { name: "Key" });
  const question = page.getByLabel("Your question", { exact: true });
  const again = [
    () => page.getByRole("button", { name: "Give a key" }).click(),
    () => page.getByLabel("Model card: no model").click(),
    () => ask(page, "Describe this X-ray."),
  ];
  for (const open of again) {
    await page.keyboard.press("Escape");
    await expect(dialog).toHaveCount(0);
    await open();
    await expect(dialog).toBeVisible();
  }
  await page.keyboard.type("secret");
  await page.keyboard.press("Enter");
  await expect(page.getByText("The server asks for a key.")).toHaveCount(0);
  await expect(question).toHaveValue("Describe this X-ray.");
  await question.press("Enter");
  await expect(page.getByRole("heading", { name: "Findings" })).toBeVisible();
});

for (const scheme of ["light", "dark"] as const) {
  test(`no accessibility faults, ${scheme}`, async ({ page }) => {
    await page.emulateMedia({ colorScheme: scheme });
    // Loaded anew: changed under a page, colours arrive one after the other.
    await page.reload();
    await expect(page.getByLabel(/Model card: medgemma/)).toBeVisible();
    const check = async () => expect((await new AxeBuilder({ page }).analyze()).violations).toEqual([]);
    await check();
    await page.getByLabel("Choose images").setInputFiles(`${IMAGES}cxr-000.png`);
    await page.getByRole("button", { name: "Boxes" }).click();
    await ask(page, "Where is the opacity?");
    await done(page);
    await ask(page, "Describe it");
    await done(page);
    await check();
    await page.screenshot({ path: `screenshots/chat-${scheme}.png` });
    for (const name of ["Safety", /^Model card/, "Settings", /boxes in the viewer/]) {
      await page.getByRole("button", { name }).first().click();
      await expect(page.getByRole("dialog")).toBeVisible();
      await check();
      await page.screenshot({ path: `screenshots/${String(name).replace(/\W+/g, "")}-${scheme}.png` });
      await page.keyboard.press("Escape");
    }
  });
}

test("a conversation is had by keyboard alone", async ({ page }) => {
  const focused = page.locator(":focus");
  const tabTo = async (name: string | RegExp): Promise<void> => {
    for (let presses = 0; presses < 40; presses += 1) {
      await page.keyboard.press("Tab");
      // After the last element the page's turn is over, and nothing in it has the focus.
      const label = await page.evaluate(() => {
        const { activeElement, body } = document;
        return activeElement === null || activeElement === body ? "" : (activeElement.getAttribute("aria-label") ?? activeElement.textContent ?? "");
      });
      if (typeof name === "string" ? label === name : name.test(label)) return;
    }
    throw new Error(`no ${name} is reached`);
  };
  await page.keyboard.press("Tab");
  await expect(focused).toHaveText("Skip to the question");
  await page.keyboard.press("Enter");
  await page.getByLabel("Your question", { exact: true }).focus();
  await page.keyboard.type("slow please");
  await page.keyboard.press("Shift+Enter");
  await page.keyboard.type("and two lines");
  await page.keyboard.press("Enter");
  await expect(page.getByLabel("Answer of the model")).toContainText("word");
  await page.keyboard.press("Escape");
  await expect(page.getByText("Stopped by you.")).toBeVisible();
  expect((await lastRequest(page)).messages[0].content).toBe("slow please\nand two lines");
  await page.keyboard.press("Control+Shift+O");
  await expect(page.getByRole("heading", { name: "New conversation" })).toBeVisible();
  await tabTo(/^slow please/);
  await page.keyboard.press("Enter");
  await expect(page.getByText("Stopped by you.")).toBeVisible();
  await tabTo("Settings");
  await page.keyboard.press("Enter");
  await expect(page.getByRole("dialog")).toBeVisible();
  await page.keyboard.press("Escape");
  await expect(page.getByRole("dialog")).toHaveCount(0);
  await expect(focused).toHaveAttribute("aria-label", "Settings");
});

test("paper shows the conversation and the notice, and nothing to press", async ({ page }) => {
  await ask(page, "Describe this X-ray.");
  await done(page);
  await page.emulateMedia({ media: "print" });
  await expect(page.locator(".print-only")).toContainText("Not a medical device");
  await expect(page.getByRole("heading", { name: "Findings" })).toBeVisible();
  await expect(page.getByRole("navigation")).toBeHidden();
  for (const button of await page.getByRole("button").all()) await expect(button).toBeHidden();
  const pdf = await page.pdf({ format: "A4" });
  expect(pdf.subarray(0, 5).toString()).toBe("%PDF-");
  expect(pdf.toString("latin1").match(/\/Type \/Page\b/g)).toHaveLength(1);
  await page.emulateMedia({ media: "screen" });
});

test("on a phone the first page opens at its top", async ({ page }) => {
  await page.setViewportSize({ width: 360, height: 740 });
  await page.reload();
  const first = page.getByRole("heading", { name: "What would you like to look at?" });
  await expect(page.getByLabel(/Model card: medgemma/)).toBeVisible();
  await expect(first).toBeInViewport({ ratio: 1 });
  await page.screenshot({ path: "screenshots/welcome-phone.png" });
  // Neither does it open where the reader was in a conversation.
  await ask(page, "Describe this X-ray.");
  await done(page);
  await expect(page.getByRole("button", { name: "Retry" })).toBeInViewport();
  await page.keyboard.press("Control+Shift+O");
  await expect(first).toBeInViewport({ ratio: 1 });
});

test("a narrow screen: nothing sticks out, the list opens and closes", async ({ page }) => {
  await page.setViewportSize({ width: 390, height: 780 });
  await page.screenshot({ path: "screenshots/welcome-narrow.png" });
  await page.getByLabel("Choose images").setInputFiles(`${IMAGES}cxr-000.png`);
  await page.getByRole("button", { name: "Boxes" }).click();
  await ask(page, "Where is the opacity?");
  await done(page);
  await page.screenshot({ path: "screenshots/chat-narrow.png" });
  expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(390);
  await page.getByRole("button", { name: "Conversations" }).click();
  await expect(page.getByRole("button", { name: "New conversation" })).toBeInViewport();
  await page.keyboard.press("Escape");
  await expect(page.getByRole("navigation")).toBeHidden();
});
