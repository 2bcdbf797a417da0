/** A picture that a turn holds; its bytes are in the store, under `id`. */
export interface Picture {
  id: string;
  name: string;
  width: number;
  height: number;
}

/** What the reader asked. */
export interface UserTurn {
  role: "user";
  id: string;
  text: string;
  pictures: Picture[];
  /** The answer is to hold boxes: the published localisation instructions are sent around the text. */
  locate: boolean;
  at: number;
}

/** What the model answered. */
export interface ModelTurn {
  role: "assistant";
  id: string;
  text: string;
  thought: string;
  /** Null while it is being written. */
  finish: Finish | null;
  /** Why it ended early, in words for the reader. */
  problem?: string;
  model: string;
  at: number;
  tokens?: number;
  seconds?: number;
}

export type Turn = UserTurn | ModelTurn;

/** OpenAI's finish reasons, the server's more exact ones, and what this page adds: stopped by the reader, broken off by an error. */
export type Finish = "stop" | "length" | "content_filter" | "stopped" | "error" | (string & {});

export interface Session {
  id: string;
  title: string;
  turns: Turn[];
  updated: number;
  /** System text of this conversation. */
  system: string;
  /** Changes each time it is kept: tells a tab that another one has changed it. */
  version?: string;
}

/** The pictures that a conversation shows. */
export function pictureIds(session: Session): string[] {
  return session.turns.flatMap((turn) => (turn.role === "user" ? turn.pictures.map(({ id }) => id) : []));
}

/** How answers are asked for; the same for all conversations of this browser. */
export interface Settings {
  think: boolean;
  temperature: number | null;
  maxTokens: number | null;
  /** False: conversations are forgotten when the page is closed. */
  keep: boolean;
}

/** The least and the most that the server is asked for. */
export const LIMITS = { temperature: [0, 2], maxTokens: [1, 1_000_000] } as const;

/** One model of the server, as far as it says. */
export interface ModelInfo {
  id: string;
  images: boolean | null;
  thinks: boolean | null;
  /** Whether the server keeps conversations. */
  keeps: boolean;
  /** Whether it is the demo model, a toy. */
  demo: boolean;
  context: number | null;
  /** Everything the server says, to show in the model card. */
  raw: Record<string, unknown>;
}

/** A box in thousandths of the padded square, as the model writes it. */
export interface Box {
  y0: number;
  x0: number;
  y1: number;
  x1: number;
  label: string;
}

/** A rectangle in pixels of the original picture. */
export interface Rect {
  x: number;
  y: number;
  width: number;
  height: number;
}

let last = 0;

/** Unique in this browser; no crypto.randomUUID, which plain http:// addresses other than loopback don't have. */
export function newId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(8));
  last += 1;
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("") + last.toString(36);
}
