// `medgemma serve demo` on a free port of this machine, and a held-out case to ask about.
import { spawn } from "node:child_process";
import { readFile } from "node:fs/promises";
import { createInterface } from "node:readline";

export async function serve(...options) {
  const child = spawn(process.env.MEDGEMMA, ["serve", "demo", "--port", "0", ...options], { stdio: ["ignore", "ignore", "pipe"] });
  let url;
  for await (const line of createInterface({ input: child.stderr })) {
    url ??= line.match(/http:\/\/[\d.]+:\d+/)?.[0];
    if (line.startsWith("Ready")) break;
  }
  if (url === undefined) throw new Error("the server ended");
  const metric = async (name) => Number((await (await fetch(`${url}/metrics`)).text()).match(new RegExp(`^${name} (.+)$`, "m"))[1]);
  return {
    url,
    /** Until nothing is computed: what a client left must end. */
    async idle() {
      for (const begun = Date.now(); (await metric("medgemma_requests_running")) > 0; await new Promise((done) => setTimeout(done, 20)))
        if (Date.now() - begun > 10_000) throw new Error("a request goes on that nobody waits for");
    },
    end: () => new Promise((done) => child.once("exit", done) && child.kill()),
  };
}

const folder = process.env.HELDOUT;
const cases = (await readFile(`${folder}/cases.jsonl`, "utf8")).trim().split("\n").map((line) => JSON.parse(line));

/** A case about one picture: the words asked, the picture as a data URL, the answer. */
export async function seen(id) {
  const { messages, answer } = cases.find((one) => one.id === id);
  const [{ image }, { text }] = messages[0].content;
  return { text, url: `data:image/png;base64,${await readFile(`${folder}/images/${image}`, "base64")}`, answer };
}
