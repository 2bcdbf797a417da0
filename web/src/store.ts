import { newId, type Session } from "./types";

/**
 * Conversations and pictures, in this browser's IndexedDB and nowhere else; in memory alone when the reader wants nothing
 * kept, or where the browser has no database (a private window of some). Tabs tell each other of what they change; none
 * overwrites what another has kept and it hasn't seen.
 */
const NAME = "medgemma";
const pictures = new Map<string, Blob>();
let database: Promise<IDBDatabase | null> | null = null;
let keeping = true;
/** An answer that was being written when its conversation was deleted must not bring it back. */
const deleted = new Set<string>();
/** The version of each conversation in the database that this tab has read or written. */
const seen = new Map<string, string>();
/** Versions that this tab has written and nobody has replaced. */
const own = new Set<string>();
const channel = new BroadcastChannel(NAME);

/** What another tab did: changed conversations, or turned keeping them off or on. */
export type Notice = "changed" | "keeping";

export function onNotice(listener: (notice: Notice) => void): void {
  channel.addEventListener("message", (event: MessageEvent<Notice>) => listener(event.data));
}

function connect(): Promise<IDBDatabase | null> {
  database ??= new Promise((done) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("sessions", { keyPath: "id" });
      request.result.createObjectStore("pictures");
    };
    request.onsuccess = () => done(request.result);
    request.onerror = () => done(null);
    request.onblocked = () => done(null);
  });
  return database;
}

type Stores = { sessions: IDBObjectStore; pictures: IDBObjectStore };

async function write(work: (stores: Stores) => void, notice: Notice = "changed"): Promise<void> {
  const db = await connect();
  if (db === null) return;
  const transaction = db.transaction(["sessions", "pictures"], "readwrite");
  work({ sessions: transaction.objectStore("sessions"), pictures: transaction.objectStore("pictures") });
  await new Promise<void>((done) => {
    transaction.oncomplete = () => {
      channel.postMessage(notice);
      done();
    };
    // A full disk: the conversation goes on in memory.
    transaction.onabort = () => done();
  });
}

async function read<T>(store: keyof Stores, get: (store: IDBObjectStore) => IDBRequest<T>): Promise<T | null> {
  const db = await connect();
  if (db === null) return null;
  const request = get(db.transaction(store).objectStore(store));
  return new Promise((done) => {
    request.onsuccess = () => done(request.result);
    request.onerror = () => done(null);
  });
}

/** Newest first. Those that this tab doesn't take over from the database stay unseen. */
export async function sessions(takes: (session: Session) => boolean = () => true): Promise<Session[]> {
  const all = (await read("sessions", (store) => store.getAll() as IDBRequest<Session[]>)) ?? [];
  const taken = all.filter(takes);
  for (const { id, version = "" } of taken) seen.set(id, version);
  return taken.sort((a, b) => b.updated - a.updated);
}

/** Whether a conversation is, or was, in the database. */
export function known(id: string): boolean {
  return seen.has(id);
}

/**
 * Keeps a conversation and gives its id: another one where another tab has changed it unseen, since then this tab's
 * becomes a conversation of its own; null where another tab has deleted it.
 */
export async function save(session: Session): Promise<string | null> {
  if (!keeping || session.turns.length === 0) return session.id;
  if (deleted.has(session.id)) return null;
  let kept: string | null = session.id;
  // What was seen when this was asked for: what is read while it waits isn't in the conversation.
  const mine = seen.get(session.id);
  await write((stores) => {
    const before = stores.sessions.get(session.id) as IDBRequest<Session | undefined>;
    before.onsuccess = () => {
      const stored = before.result;
      if (stored === undefined && mine !== undefined) {
        kept = null;
        return;
      }
      const theirs = stored?.version ?? "";
      if (stored !== undefined && theirs !== mine && !own.has(theirs)) kept = newId();
      else own.delete(theirs);
      const id = kept ?? session.id;
      const version = newId();
      stores.sessions.put({ ...session, id, version });
      seen.set(id, version);
      own.add(version);
      for (const picture of pictureIds(session)) {
        const blob = pictures.get(picture);
        if (blob !== undefined) stores.pictures.put(blob, picture);
      }
    };
  });
  return kept;
}

/** Deletes a conversation, and its pictures where no other one has them. */
export async function remove(session: Session): Promise<void> {
  deleted.add(session.id);
  await write((stores) => {
    stores.sessions.delete(session.id);
    const others = stores.sessions.getAll() as IDBRequest<Session[]>;
    others.onsuccess = () => {
      const used = new Set(others.result.flatMap(pictureIds));
      for (const id of pictureIds(session)) {
        if (used.has(id)) continue;
        pictures.delete(id);
        stores.pictures.delete(id);
      }
    };
  });
}

/** Deletes everything that this page has kept. */
export async function removeAll(sessions: Session[]): Promise<void> {
  for (const { id } of sessions) deleted.add(id);
  pictures.clear();
  await write(clear);
}

/** Whether conversations outlive the page; turning it off deletes what was kept, but not what is in memory. */
export async function keep(value: boolean): Promise<void> {
  follow(value);
  if (!value) await write(clear, "keeping");
  else channel.postMessage("keeping" satisfies Notice);
}

/** Does as another tab has decided. */
export function follow(value: boolean): void {
  keeping = value;
  if (!value) seen.clear();
}

function clear(stores: Stores): void {
  stores.sessions.clear();
  stores.pictures.clear();
}

export function addPicture(id: string, blob: Blob): void {
  pictures.set(id, blob);
}

export async function picture(id: string): Promise<Blob | null> {
  const known = pictures.get(id);
  if (known !== undefined) return known;
  const blob = await read("pictures", (store) => store.get(id) as IDBRequest<Blob | undefined>);
  if (blob) pictures.set(id, blob);
  return blob ?? null;
}

function pictureIds(session: Session): string[] {
  return session.turns.flatMap((turn) => (turn.role === "user" ? turn.pictures.map(({ id }) => id) : []));
}
