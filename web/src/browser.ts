import { newId, pictureIds, type Session } from "./types";

/**
 * Conversations and pictures in this browser's IndexedDB; nothing where the browser has no database (a private window of
 * some). Tabs tell each other of what they change; none overwrites what another has kept and it hasn't seen.
 */
const NAME = "medgemma";
let database: Promise<IDBDatabase | null> | null = null;
/** The version of each conversation in the database that this tab has read or written. */
const seen = new Map<string, string>();
/** Versions that this tab has written and nobody has replaced. */
const own = new Set<string>();
const channel = new BroadcastChannel(NAME);

/** What another tab did: changed conversations, or turned keeping them off or on. */
export type Notice = "changed" | "keeping";

/** Tells the other tabs. */
export function tell(notice: Notice): void {
  channel.postMessage(notice);
}

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
      tell(notice);
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
 * becomes a conversation of its own; null where another tab has deleted it. `pictures` are those that this tab holds.
 */
export async function save(session: Session, pictures: Map<string, Blob>): Promise<string | null> {
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

/** Deletes a conversation, and its pictures where no other one has them; gives those. */
export async function remove(session: Session): Promise<string[]> {
  const gone: string[] = [];
  await write((stores) => {
    stores.sessions.delete(session.id);
    const others = stores.sessions.getAll() as IDBRequest<Session[]>;
    others.onsuccess = () => {
      const used = new Set(others.result.flatMap(pictureIds));
      gone.push(...pictureIds(session).filter((id) => !used.has(id)));
      for (const id of gone) stores.pictures.delete(id);
    };
  });
  return gone;
}

/** Deletes everything that this page has kept, and tells the other tabs why. */
export async function removeAll(notice: Notice): Promise<void> {
  await write(clear, notice);
}

/** As if nothing had been read. */
export function forget(): void {
  seen.clear();
}

export async function picture(id: string): Promise<Blob | null> {
  return (await read("pictures", (store) => store.get(id) as IDBRequest<Blob | undefined>)) ?? null;
}

function clear(stores: Stores): void {
  stores.sessions.clear();
  stores.pictures.clear();
}
