import { ApiError, call } from "./api";
import { newId, pictureIds, type Session } from "./types";

/**
 * Conversations and pictures on the server, where its operator has turned that on: they are the same wherever their
 * owner looks. Nobody overwrites what they haven't seen; each version that is kept names the one that it replaces.
 */
const PATH = "/v1/sessions";
/** The version of each conversation that this tab has read or written. */
const seen = new Map<string, string>();
/** Versions that this tab has written. */
const own = new Set<string>();
/** Pictures that are there. */
const sent = new Set<string>();
/** What is asked: one after the other, or a tab would overtake itself. */
let last: Promise<unknown> = Promise.resolve();

function inTurn<T>(work: () => Promise<T>): Promise<T> {
  const done = last.then(work);
  last = done.catch(() => undefined);
  return done;
}

interface Entry {
  id: string;
  version: string;
  session: Session;
}

/** Those that this tab doesn't take over stay unseen. */
export function sessions(takes: (session: Session) => boolean): Promise<Session[]> {
  return inTurn(() => list(takes));
}

async function list(takes: (session: Session) => boolean): Promise<Session[]> {
  const body = (await (await call(PATH)).json()) as { data: Entry[] };
  const taken = body.data.filter(({ id, session }) => takes({ ...session, id }));
  for (const { id, version, session } of taken) {
    seen.set(id, version);
    for (const picture of pictureIds(session)) sent.add(picture);
  }
  return taken.map(({ id, session }) => ({ ...session, id }));
}

export function known(id: string): boolean {
  return seen.has(id);
}

/** As the browser's: its id, another one where it was changed elsewhere, null where it was deleted there. */
export function save(session: Session, pictures: Map<string, Blob>): Promise<string | null> {
  // What was seen when this was asked for: what is read while it waits isn't in the conversation.
  const mine = seen.get(session.id);
  return inTurn(() => put(session, pictures, mine));
}

async function put(session: Session, pictures: Map<string, Blob>, mine: string | undefined): Promise<string | null> {
  const ids = pictureIds(session);
  await send(ids.filter((id) => !sent.has(id)), pictures);
  const now = seen.get(session.id);
  const version = now !== undefined && own.has(now) ? now : mine;
  try {
    await send(await putAs(session.id, session, ids, version), pictures);
    return session.id;
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.status === 410) return null;
    if (error.status !== 409) throw error;
  }
  const id = newId();
  await send(await putAs(id, session, ids, undefined), pictures);
  return id;
}

async function send(ids: string[], pictures: Map<string, Blob>): Promise<void> {
  for (const id of ids) {
    const blob = pictures.get(id);
    if (blob === undefined) continue;
    await call(`${PATH}/pictures/${id}`, { method: "PUT", body: blob });
    sent.add(id);
  }
}

/** Gives the pictures that aren't there: forgotten as another page left them out, say. */
async function putAs(id: string, session: Session, pictures: string[], version: string | undefined): Promise<string[]> {
  const body = JSON.stringify({ session: { ...session, id }, pictures, version: version ?? null });
  const response = await call(`${PATH}/${id}`, { method: "PUT", headers: { "Content-Type": "application/json" }, body });
  const kept = (await response.json()) as { version: string; missing: string[] };
  seen.set(id, kept.version);
  own.add(kept.version);
  return kept.missing;
}

export async function remove(session: Session): Promise<void> {
  await inTurn(() => call(`${PATH}/${session.id}`, { method: "DELETE" }));
}

export async function removeAll(): Promise<void> {
  await inTurn(() => call(PATH, { method: "DELETE" }));
  sent.clear();
}

export async function picture(id: string): Promise<Blob | null> {
  try {
    const blob = await (await call(`${PATH}/pictures/${id}`)).blob();
    sent.add(id);
    return blob;
  } catch (error) {
    if (error instanceof ApiError && error.status === 404) return null;
    throw error;
  }
}
