// A stand-in for `medgemma serve` with scripted answers, so that the page's tests need no model and can have failures.
// Serves dist/ under the same policy header. `npm run mock`, then `npm run dev`.
import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { extname, join, normalize } from "node:path";

const PORT = Number(process.env.PORT ?? 8080);
const DIST = new URL("../dist/", import.meta.url).pathname;
const TYPES = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".woff2": "font/woff2" };
const POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";
/** Bodies of the last requests, for tests to look at. */
const seen = [];

const REPORT = "## Findings\nHeart: normal size.\nRight lung: **opacity** in the mid zone.\n\n1. One thing [Observation/o254]\n2. Another\n\n| test | value |\n|---|---|\n| CRP | 12 mg/L |\n\n<img src=x onerror=alert(1)> ![x](https://example.org/x.png)";
const BOXES = 'There is an opacity in the right mid zone.\n\nFinal Answer: ```json[{"box_2d": [320, 225, 495, 380], "label": "opacity"}, {"box_2d": [205, 520, 720, 820], "label": "left lung"}]```';

function script(body) {
  const last = JSON.stringify(body.messages.at(-1).content);
  const thought = body.chat_template_kwargs?.enable_thinking ? "Heart first, then the lungs." : "";
  if (last.includes("box_2d")) return { thought, text: BOXES };
  if (last.includes("slow")) return { thought, text: "word ".repeat(400), wait: 40 };
  if (last.includes("cut")) return { thought, text: "An unfinished", finish: "length" };
  if (last.includes("break")) return { thought, text: "Half an ans", breaks: true };
  if (last.includes("linger")) return { thought, text: "All of it", lingers: true };
  return { thought, text: REPORT };
}

async function complete(body, response) {
  response.writeHead(200, { "Content-Type": "text/event-stream", "Cache-Control": "no-store" });
  const { thought, text, wait = 2, finish = "stop", breaks = false, lingers = false } = script(body);
  const chunk = (delta, finish_reason = null) => response.write(`data: ${JSON.stringify({ object: "chat.completion.chunk", choices: [{ index: 0, delta, finish_reason }] })}\n\n`);
  chunk({ role: "assistant", content: "" });
  for (const piece of thought.match(/.{1,6}/gs) ?? []) chunk({ reasoning_content: piece });
  for (const piece of text.match(/.{1,6}/gs) ?? []) {
    if (response.destroyed) return;
    chunk({ content: piece });
    await new Promise((done) => setTimeout(done, wait));
  }
  if (breaks) return setTimeout(() => response.destroy(), 100);
  chunk({}, finish);
  response.write(`data: ${JSON.stringify({ choices: [], usage: { prompt_tokens: 9, completion_tokens: 42, total_tokens: 51 } })}\n\n`);
  response.write("data: [DONE]\n\n");
  if (!lingers) response.end();
}

function fail(response, status, message, headers = {}) {
  response.writeHead(status, { "Content-Type": "application/json", ...headers });
  response.end(JSON.stringify({ error: { message, type: "invalid_request_error", param: null, code: null } }));
}

createServer(async (request, response) => {
  const { pathname } = new URL(request.url ?? "/", "http://localhost");
  if (pathname === "/seen") return response.end(JSON.stringify(seen));
  if (pathname === "/v1/models") {
    response.setHeader("Content-Type", "application/json");
    return response.end(JSON.stringify({ object: "list", data: [{ id: "medgemma-demo", object: "model", created: 1764000000, owned_by: "local", context_length: 8192, capabilities: { vision: true, thinking: true, demo: true } }] }));
  }
  if (pathname === "/v1/chat/completions") {
    let text = "";
    for await (const piece of request) text += piece;
    const body = JSON.parse(text);
    seen.push(body);
    if (text.includes("too busy")) return fail(response, 429, "The queue is full.", { "Retry-After": "3" });
    return complete(body, response);
  }
  const path = join(DIST, normalize(pathname === "/" ? "index.html" : pathname));
  try {
    const bytes = await readFile(path);
    response.writeHead(200, { "Content-Type": TYPES[extname(path)] ?? "application/octet-stream", "Content-Security-Policy": POLICY });
    response.end(bytes);
  } catch {
    fail(response, 404, "Not found.");
  }
}).listen(PORT, "127.0.0.1", () => console.log(`http://127.0.0.1:${PORT}`));
