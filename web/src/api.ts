import { DONE, events } from "./sse";
import type { Finish, ModelInfo } from "./types";

/** What a request failed with, in words for the reader. */
export class ApiError extends Error {
  readonly status: number;
  readonly retryAfter: number | null;

  constructor(message: string, status: number, retryAfter: number | null = null) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

export type Part = { type: "text"; text: string } | { type: "image_url"; image_url: { url: string } };

export interface Message {
  role: "system" | "user" | "assistant";
  content: string | Part[];
}

export interface Ask {
  model: string;
  messages: Message[];
  think: boolean;
  temperature: number | null;
  maxTokens: number | null;
}

/** What comes while an answer is written. */
export type Delta =
  | { kind: "text"; text: string }
  | { kind: "thought"; text: string }
  | { kind: "finish"; finish: Finish }
  | { kind: "usage"; tokens: number };

const KEY = "medgemma.key";

/** The key lives as long as the tab. */
export const key = {
  get: (): string => sessionStorage.getItem(KEY) ?? "",
  set: (value: string): void => sessionStorage.setItem(KEY, value),
};

/** Asks the page's server; throws words for the reader. */
export async function call(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers);
  if (key.get() !== "") headers.set("Authorization", `Bearer ${key.get()}`);
  let response: Response;
  try {
    response = await fetch(path, { ...init, headers, cache: "no-store", credentials: "same-origin" });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError("The server can't be reached. Is `medgemma serve` still running?", 0);
  }
  if (response.ok) return response;
  throw await failure(response);
}

async function failure(response: Response): Promise<ApiError> {
  const seconds = Number(response.headers.get("Retry-After"));
  const retryAfter = Number.isFinite(seconds) && seconds > 0 ? seconds : null;
  let said = "";
  try {
    const body: unknown = await response.json();
    said = messageOf(body);
  } catch {
    // Not JSON: a proxy's page, say. The status is all there is.
  }
  const plain: Record<number, string> = {
    401: "The server asks for a key.",
    413: "That is more than the server takes in one message.",
    429: "The server is busy: its queue is full.",
    503: "The server is not ready: the model is still loading, or it is shutting down.",
  };
  const message = said || plain[response.status] || `The server answered with status ${response.status}.`;
  return new ApiError(message, response.status, retryAfter);
}

/** The message of an error in OpenAI's shape, or "". */
function messageOf(body: unknown): string {
  if (typeof body !== "object" || body === null || !("error" in body)) return "";
  const { error } = body;
  if (typeof error === "string") return error;
  if (typeof error !== "object" || error === null || !("message" in error)) return "";
  return typeof error.message === "string" ? error.message : "";
}

/** What the server serves. Only `id` is OpenAI's; the rest is read where it is given. */
export async function models(): Promise<ModelInfo[]> {
  const body: unknown = await (await call("/v1/models")).json();
  const list = typeof body === "object" && body !== null && "data" in body && Array.isArray(body.data) ? body.data : [];
  return list.filter((entry) => typeof entry?.id === "string").map(describe);
}

function describe(raw: Record<string, unknown>): ModelInfo {
  const capabilities = raw["capabilities"];
  const can = (...names: string[]): boolean | null => {
    for (const place of [capabilities, raw]) {
      if (Array.isArray(place)) return names.some((name) => place.includes(name));
      if (typeof place !== "object" || place === null) continue;
      for (const name of names) {
        const value: unknown = (place as Record<string, unknown>)[name];
        if (typeof value === "boolean") return value;
      }
    }
    return null;
  };
  const context = [raw["context_length"], raw["max_model_len"], raw["context"]].find((n) => typeof n === "number");
  return {
    id: String(raw["id"]),
    images: can("vision", "images", "image"),
    thinks: can("thinking", "reasoning", "think"),
    keeps: can("sessions") === true,
    demo: can("demo") === true,
    context: typeof context === "number" ? context : null,
    raw,
  };
}

/** Asks for an answer and passes on what comes, until the server says [DONE] or `signal` is aborted. */
export async function* chat(ask: Ask, signal: AbortSignal): AsyncGenerator<Delta> {
  const body = {
    model: ask.model,
    messages: ask.messages,
    stream: true,
    stream_options: { include_usage: true },
    chat_template_kwargs: { enable_thinking: ask.think },
    ...(ask.temperature === null ? {} : { temperature: ask.temperature }),
    ...(ask.maxTokens === null ? {} : { max_completion_tokens: ask.maxTokens }),
  };
  const response = await call("/v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  if (response.body === null) throw new ApiError("The server sent no answer.", 0);
  // Chromium takes a body that a reader has read to its end for one that was left, and shows a request that failed; not so
  // one that was shared between two, of which the other leaves.
  void response.clone().body?.cancel().catch(() => undefined);
  let ended = false;
  try {
    for await (const data of events(response.body)) {
      if (data === DONE) {
        ended = true;
        break;
      }
      for (const delta of read(data)) {
        ended ||= delta.kind === "finish";
        yield delta;
      }
    }
  } catch (error) {
    if (error instanceof ApiError || signal.aborted) throw error;
    throw new ApiError("The connection to the server broke off.", 0);
  }
  if (!ended) throw new ApiError("The connection to the server broke off.", 0);
}

interface Chunk {
  choices?: { delta?: { content?: string | null; reasoning_content?: string | null }; finish_reason?: string | null; finish_detail?: string | null }[];
  usage?: { completion_tokens?: number } | null;
}

function read(data: string): Delta[] {
  let chunk: Chunk;
  try {
    chunk = JSON.parse(data) as Chunk;
  } catch {
    throw new ApiError("The server sent something that is not JSON.", 0);
  }
  const problem = messageOf(chunk);
  if (problem !== "") throw new ApiError(problem, 0);
  const deltas: Delta[] = [];
  for (const choice of chunk.choices ?? []) {
    if (choice.delta?.reasoning_content) deltas.push({ kind: "thought", text: choice.delta.reasoning_content });
    if (choice.delta?.content) deltas.push({ kind: "text", text: choice.delta.content });
    if (choice.finish_reason) deltas.push({ kind: "finish", finish: choice.finish_detail ?? choice.finish_reason });
  }
  if (chunk.usage?.completion_tokens !== undefined) {
    deltas.push({ kind: "usage", tokens: chunk.usage.completion_tokens });
  }
  return deltas;
}
