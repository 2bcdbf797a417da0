import * as browser from "./browser";
import * as server from "./server";
import type { Session } from "./types";

/**
 * Where conversations and pictures are kept: in this browser; on the server where its operator has turned that on, but
 * for those that the browser had before; in memory alone when the reader wants nothing kept.
 */
const pictures = new Map<string, Blob>();
let keeping = true;
let onServer = false;
/** An answer that was being written when its conversation was deleted must not bring it back. */
const deleted = new Set<string>();

export { onNotice } from "./browser";

/** From now on the server keeps what is new. */
export function useServer(): void {
  onServer = true;
}

/** Newest first. Those that this tab doesn't take over stay unseen. */
export async function sessions(takes: (session: Session) => boolean = () => true): Promise<Session[]> {
  const there = onServer ? await server.sessions(takes) : [];
  return [...(await browser.sessions(takes)), ...there].sort((a, b) => b.updated - a.updated);
}

/** Whether a conversation is, or was, kept. */
export function known(id: string): boolean {
  return browser.known(id) || server.known(id);
}

/**
 * Keeps a conversation and gives its id: another one where another tab has changed it unseen, since then this tab's
 * becomes a conversation of its own; null where another tab has deleted it. Throws where the server can't keep it.
 */
export async function save(session: Session): Promise<string | null> {
  if (!keeping || session.turns.length === 0) return session.id;
  if (deleted.has(session.id)) return null;
  if (!onServer || browser.known(session.id)) return browser.save(session, pictures);
  const kept = await server.save(session, pictures);
  browser.tell("changed");
  return kept;
}

/** Deletes a conversation, and its pictures where no other one has them. */
export async function remove(session: Session): Promise<void> {
  deleted.add(session.id);
  if (onServer && !browser.known(session.id)) {
    try {
      await server.remove(session);
    } catch (error) {
      deleted.delete(session.id);
      throw error;
    }
    browser.tell("changed");
    return;
  }
  for (const id of await browser.remove(session)) pictures.delete(id);
}

/** Deletes everything that is kept. */
export async function removeAll(sessions: Session[]): Promise<void> {
  for (const { id } of sessions) deleted.add(id);
  try {
    if (onServer) await server.removeAll();
  } catch (error) {
    for (const { id } of sessions) deleted.delete(id);
    throw error;
  }
  pictures.clear();
  await browser.removeAll("changed");
}

/**
 * Whether conversations outlive the page; turning it off deletes what the browser has kept, but not what is in memory.
 * What the server has kept stays there until it is deleted.
 */
export async function keep(value: boolean): Promise<void> {
  follow(value);
  if (!value) await browser.removeAll("keeping");
  else browser.tell("keeping");
}

/** Does as another tab has decided. */
export function follow(value: boolean): void {
  keeping = value;
  if (!value) browser.forget();
}

export function addPicture(id: string, blob: Blob): void {
  pictures.set(id, blob);
}

export async function picture(id: string): Promise<Blob | null> {
  const known = pictures.get(id);
  if (known !== undefined) return known;
  const blob = (await browser.picture(id)) ?? (onServer ? await server.picture(id) : null);
  if (blob) pictures.set(id, blob);
  return blob;
}
