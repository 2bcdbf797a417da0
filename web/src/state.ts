import { useEffect, useState } from "preact/hooks";
import * as api from "./api";
import * as store from "./store";
import { askForBoxes } from "./boxes";
import { forModel } from "./pictures";
import { LIMITS, newId, type ModelInfo, type ModelTurn, type Picture, type Session, type Settings, type Turn, type UserTurn } from "./types";

/** All that the page shows. Changed only by the functions below; components read it with `useApp`. */
export interface App {
  sessions: Session[];
  current: Session;
  settings: Settings;
  models: ModelInfo[];
  model: string;
  /** Why the server can't be asked now, or null. */
  trouble: string | null;
  /** Whether the server asks for a key: for any, or for another one than it was given. */
  needsKey: "any" | "other" | null;
  /** Whether the reader is being asked for it now. */
  askingKey: boolean;
  /** The turn that is being written, or null. */
  writing: string | null;
  /** Whether the server keeps conversations. */
  onServer: boolean;
  /** Why a conversation couldn't be kept or deleted, in words for the reader, or null. */
  unkept: string | null;
}

const SETTINGS = "medgemma.settings";
const listeners = new Set<() => void>();
let app: App = {
  sessions: [],
  current: blank(),
  settings: loadSettings(),
  models: [],
  model: "",
  trouble: null,
  needsKey: null,
  askingKey: false,
  writing: null,
  onServer: false,
  unkept: null,
};
let abort: AbortController | null = null;
/** Conversations whose last turns are in memory alone: what is kept of them is older. */
const unsaved = new Set<string>();

function blank(system = ""): Session {
  return { id: newId(), title: "New conversation", turns: [], updated: Date.now(), system };
}

function loadSettings(): Settings {
  const usual: Settings = { think: false, temperature: null, maxTokens: null, keep: true };
  try {
    const kept = { ...usual, ...(JSON.parse(localStorage.getItem(SETTINGS) ?? "{}") as Partial<Settings>) };
    return { ...kept, temperature: within(kept.temperature, LIMITS.temperature), maxTokens: within(kept.maxTokens, LIMITS.maxTokens) };
  } catch {
    return usual;
  }
}

/** A number that the server takes, or null: an earlier page kept others, too. */
function within(value: number | null, [least, most]: readonly [number, number]): number | null {
  return value !== null && value >= least && value <= most ? value : null;
}

function set(change: Partial<App>): void {
  app = { ...app, ...change };
  for (const listener of listeners) listener();
}

/** The state, and a new drawing whenever it changes; many changes before the next frame make one drawing. */
export function useApp(): App {
  const [, draw] = useState(0);
  useEffect(() => {
    const listener = (): void => draw((n) => n + 1);
    listeners.add(listener);
    return () => void listeners.delete(listener);
  }, []);
  return app;
}

export async function start(): Promise<void> {
  if (app.settings.keep) store.follow(true);
  else await store.keep(false);
  // Before they are read, or what another tab changes meanwhile would stay unseen.
  store.onNotice((notice) => {
    if (notice === "changed") void refresh();
    else {
      set({ settings: { ...app.settings, keep: loadSettings().keep } });
      store.follow(app.settings.keep);
      // The tab that was asked to keep again keeps what both show; this one's own follow with their next turns.
      void refresh();
    }
  });
  set({ sessions: (await store.sessions()).map(brokenOff) });
  // What was changed on another machine meanwhile.
  window.addEventListener("focus", () => void (app.onServer && refresh(true)));
  await connect();
}

/** The conversation of the turn that is being written, or null. */
function writingIn(): string | null {
  const { writing } = app;
  return writing === null ? null : (app.sessions.find((session) => has(session, writing))?.id ?? null);
}

function has({ turns }: Session, turn: string): boolean {
  return turns.some(({ id }) => id === turn);
}

/** Whether its last answer is still being written, by this tab or another one. */
function unfinished({ turns }: Session): boolean {
  const last = turns.at(-1);
  return last?.role === "assistant" && last.finish === null;
}

/** An answer whose tab was closed before it ended. If another tab does write it, its end replaces this. */
function brokenOff(session: Session): Session {
  const last = session.turns.at(-1);
  if (!unfinished(session) || last?.role !== "assistant") return session;
  const ended: ModelTurn = { ...last, finish: "error", problem: "The page was closed before this answer was complete." };
  return { ...session, turns: [...session.turns.slice(0, -1), ended] };
}

/**
 * Shows what other tabs have changed, once its answer is complete, or `broken` ones, too, that this tab doesn't show;
 * what this one is writing, or couldn't keep, stays as it is.
 */
export async function refresh(broken = false): Promise<void> {
  if (!app.settings.keep && !app.onServer) return;
  const left = new Set<string>();
  let stored: Session[];
  try {
    // Which one is being written is asked when they have been read: an answer may have begun since.
    stored = await store.sessions((session) => {
      const shown = app.sessions.some(({ id }) => id === session.id);
      const whole = !unfinished(session) || (broken && !shown);
      const takes = session.id !== writingIn() && !unsaved.has(session.id) && whole;
      if (!takes) left.add(session.id);
      return takes;
    });
    stored = stored.map(brokenOff);
  } catch {
    // The server can't be asked now; what is shown stays.
    return;
  }
  const writing = writingIn();
  const mine = app.sessions.filter(({ id }) => id === writing || left.has(id) || unsaved.has(id) || !store.known(id));
  const others = stored.filter(({ id }) => !mine.some((one) => one.id === id));
  const sessions = [...mine, ...others].sort((a, b) => b.updated - a.updated);
  const gone = app.current.turns.length > 0 && !sessions.some(({ id }) => id === app.current.id);
  const current = gone ? blank() : (sessions.find(({ id }) => id === app.current.id) ?? app.current);
  set({ sessions, current });
}

/** Keeps a conversation as it is now; gives its id, which is another one where another tab has changed it meanwhile. */
async function keep(id: string): Promise<string> {
  const session = app.sessions.find((one) => one.id === id);
  if (session === undefined) return id;
  let kept: string | null;
  try {
    unsaved.add(id);
    kept = await store.save(session);
    if (app.settings.keep) unsaved.delete(id);
    set({ unkept: null });
  } catch (error) {
    // It goes on in memory, and is tried again with the next turn.
    set({ unkept: `Not kept: ${words(error)}` });
    return id;
  }
  if (kept === id) return id;
  if (kept === null) {
    // Another tab has deleted it.
    set({ sessions: app.sessions.filter((one) => one.id !== id), current: app.current.id === id ? blank() : app.current });
    return id;
  }
  const own = (one: Session): Session => (one.id === id ? { ...one, id: kept } : one);
  set({ current: own(app.current), sessions: app.sessions.map(own) });
  await refresh();
  return kept;
}

async function keepAll(): Promise<void> {
  for (const { id } of app.sessions) await keep(id);
}

/** Asks the server what it serves; while it isn't ready, again every few seconds. */
export async function connect(): Promise<void> {
  try {
    const models = await api.models();
    const model = models.some(({ id }) => id === app.model) ? app.model : (models[0]?.id ?? "");
    set({ models, model, trouble: models.length > 0 ? null : "The server serves no model.", needsKey: null, askingKey: false });
    if (models.some(({ keeps }) => keeps) && !app.onServer) {
      store.useServer();
      set({ onServer: true });
      await refresh(true);
    }
  } catch (error) {
    if (refused(error)) return;
    set({ trouble: words(error), needsKey: null, askingKey: false });
    setTimeout(() => void connect(), 4000);
  }
}

/** Asks the reader for a key where an error says that the server wants one; gives whether it does. */
function refused(error: unknown): boolean {
  if (!(error instanceof api.ApiError) || error.status !== 401) return false;
  set({ trouble: null, needsKey: api.key.get() === "" ? "any" : "other", askingKey: true });
  return true;
}

export async function giveKey(key: string): Promise<void> {
  api.key.set(key.trim());
  // What was said of the last one goes, so that it is heard anew if this one is refused, too.
  set({ needsKey: "any" });
  await connect();
}

/** Asks the reader for the key, or leaves it for later: conversations that are kept here can be read without. */
export function askForKey(now: boolean): void {
  set({ askingKey: now });
}

export function chooseModel(model: string): void {
  set({ model });
}

export function changeSettings(change: Partial<Settings>): void {
  const settings = { ...app.settings, ...change };
  localStorage.setItem(SETTINGS, JSON.stringify(settings));
  set({ settings });
  if (change.keep === undefined) return;
  void store.keep(change.keep).then(keepAll).then(() => refresh());
}

export function changeSystem(system: string): void {
  const session = { ...app.current, system };
  replace(session);
  void keep(session.id);
}

export function newSession(): void {
  stop();
  set({ current: blank(app.current.system) });
}

export function openSession(session: Session): void {
  if (session.id === app.current.id) return;
  stop();
  set({ current: session });
}

export async function deleteSession(session: Session): Promise<void> {
  if (session.id === app.current.id) stop();
  // It goes from the list when it has gone from where it was kept, not before.
  try {
    await store.remove(session);
  } catch (error) {
    set({ unkept: `Not deleted: ${words(error)}` });
    return;
  }
  set({
    current: session.id === app.current.id ? blank() : app.current,
    sessions: app.sessions.filter(({ id }) => id !== session.id),
  });
}

export async function deleteAll(): Promise<void> {
  stop();
  try {
    await store.removeAll(app.sessions);
  } catch (error) {
    set({ unkept: `Not deleted: ${words(error)}` });
    return;
  }
  set({ current: blank(), sessions: [] });
}

/** Asks a question at the end of the conversation. */
export function send(text: string, pictures: Picture[], locate: boolean): void {
  const turn: UserTurn = { role: "user", id: newId(), text, pictures, locate, at: Date.now() };
  void answer([...app.current.turns, turn]);
}

/** Asks a question of the conversation anew, with other words; what came after it goes. */
export function edit(id: string, text: string): void {
  const at = app.current.turns.findIndex((turn) => turn.id === id);
  const turn = app.current.turns[at];
  if (turn?.role !== "user") return;
  stop();
  void answer([...app.current.turns.slice(0, at), { ...turn, id: newId(), text, at: Date.now() }]);
}

/** Has an answer written anew; what came after it goes. */
export function retry(id: string): void {
  const at = app.current.turns.findIndex((turn) => turn.id === id);
  if (at <= 0) return;
  stop();
  void answer(app.current.turns.slice(0, at));
}

export function stop(): void {
  abort?.abort();
}

async function answer(turns: Turn[]): Promise<void> {
  const control = new AbortController();
  abort = control;
  const began = performance.now();
  let turn: ModelTurn = { role: "assistant", id: newId(), text: "", thought: "", finish: null, model: app.model, at: Date.now() };
  const first = turns.find((one) => one.role === "user");
  const title = (first?.text || first?.pictures[0]?.name || "Pictures").replace(/\s+/g, " ").slice(0, 80);
  const session: Session = { ...app.current, title, turns: [...turns, turn], updated: Date.now() };
  const { think, temperature, maxTokens } = app.settings;
  set({ writing: turn.id });
  replace(session);
  const begun = keep(session.id);
  const update = (change: Partial<ModelTurn>): void => {
    turn = { ...turn, ...change };
    // By the turn's id: the reader may have gone to another conversation, or deleted this one, since; and while it is being
    // kept, it may have become a conversation of its own, whose id is another one.
    const next = (one: Session): Session => (has(one, turn.id) ? { ...one, turns: [...turns, turn] } : one);
    set({ current: next(app.current), sessions: app.sessions.map(next) });
  };
  try {
    const messages = await toMessages(turns, session.system);
    for await (const delta of api.chat({ model: app.model, messages, think, temperature, maxTokens }, control.signal)) {
      if (delta.kind === "text") update({ text: turn.text + delta.text });
      else if (delta.kind === "thought") update({ thought: turn.thought + delta.text });
      else if (delta.kind === "finish") update({ finish: delta.finish });
      else update({ tokens: delta.tokens });
    }
    update({ finish: turn.finish ?? "stop", seconds: (performance.now() - began) / 1000 });
  } catch (error) {
    if (control.signal.aborted) update({ finish: "stopped" });
    else {
      refused(error);
      update({ finish: "error", problem: words(error) });
    }
  }
  await keep(await begun);
  if (app.writing === turn.id) set({ writing: null });
}

/** Shows a changed conversation. */
function replace(session: Session): void {
  const others = app.sessions.filter(({ id }) => id !== session.id);
  set({ current: session, sessions: session.turns.length > 0 ? [session, ...others] : others });
}

/** The conversation as the API takes it: pictures before the words of their turn, thoughts left out. */
async function toMessages(turns: Turn[], system: string): Promise<api.Message[]> {
  const messages: api.Message[] = system.trim() === "" ? [] : [{ role: "system", content: system }];
  for (const turn of turns) {
    if (turn.role === "assistant") {
      if (turn.text !== "") messages.push({ role: "assistant", content: turn.text });
      continue;
    }
    const parts: api.Part[] = [];
    for (const picture of turn.pictures) {
      const blob = await store.picture(picture.id);
      if (blob === null) throw new Error(`${picture.name} is no longer kept; edit the question and add it again.`);
      parts.push({ type: "image_url", image_url: { url: await forModel(picture, blob) } });
    }
    const text = turn.locate ? askForBoxes(turn.text) : turn.text;
    if (parts.length === 0) messages.push({ role: "user", content: text });
    else messages.push({ role: "user", content: text === "" ? parts : [...parts, { type: "text", text }] });
  }
  return alternate(messages);
}

/** The chat template takes turns in strict alternation: a question whose answer never came joins the next one. */
function alternate(messages: api.Message[]): api.Message[] {
  const out: api.Message[] = [];
  for (const message of messages) {
    const before = out.at(-1);
    if (before === undefined || before.role !== message.role) {
      out.push(message);
      continue;
    }
    const parts = (content: api.Message["content"]): api.Part[] =>
      typeof content === "string" ? [{ type: "text", text: content }] : content;
    out[out.length - 1] = { role: before.role, content: [...parts(before.content), ...parts(message.content)] };
  }
  return out;
}

function words(error: unknown): string {
  if (!(error instanceof api.ApiError)) return error instanceof Error ? error.message : "Something went wrong.";
  return error.retryAfter === null ? error.message : `${error.message} Try again in ${error.retryAfter} seconds.`;
}
