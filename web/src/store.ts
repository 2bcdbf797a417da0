import type { Session } from "./types";

/**
 * Conversations and pictures, in this browser's IndexedDB and nowhere else; in memory alone when the reader wants nothing
 * kept, or where the browser has no database (a private window of some).
 */
const NAME = "medgemma";
const pictures = new Map<string, Blob>();
let database: Promise<IDBDatabase | null> | null = null;
let keeping = true;
/** An answer that was being written when its conversation was deleted must not bring it back. */
const deleted = new Set<string>();

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

async function write(work: (stores: Stores) => void): Promise<void> {
  const db = await connect();
  if (db === null) return;
  const transaction = db.transaction(["sessions", "pictures"], "readwrite");
  work({ sessions: transaction.objectStore("sessions"), pictures: transaction.objectStore("pictures") });
  await new Promise<void>((done) => {
    transaction.oncomplete = () => done();
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

/** Newest first. */
export async function sessions(): Promise<Session[]> {
  const all = (await read("sessions", (store) => store.getAll() as IDBRequest<Session[]>)) ?? [];
  return all.sort((a, b) => b.updated - a.updated);
}

export async function save(session: Session): Promise<void> {
  if (!keeping || deleted.has(session.id) || session.turns.length === 0) return;
  const ids = pictureIds(session);
  await write((stores) => {
    stores.sessions.put(session);
    for (const id of ids) {
      const blob = pictures.get(id);
      if (blob !== undefined) stores.pictures.put(blob, id);
    }
  });
}

/** Deletes a conversation and its pictures. */
export async function remove(session: Session): Promise<void> {
  deleted.add(session.id);
  const ids = pictureIds(session);
  for (const id of ids) pictures.delete(id);
  await write((stores) => {
    stores.sessions.delete(session.id);
    for (const id of ids) stores.pictures.delete(id);
  });
}

/** Deletes everything that this page has kept. */
export async function removeAll(sessions: Session[]): Promise<void> {
  for (const { id } of sessions) deleted.add(id);
  pictures.clear();
  await write((stores) => {
    stores.sessions.clear();
    stores.pictures.clear();
  });
}

/** Whether conversations outlive the page; turning it off deletes what was kept, but not what is in memory. */
export async function keep(value: boolean): Promise<void> {
  keeping = value;
  if (value) return;
  await write((stores) => {
    stores.sessions.clear();
    stores.pictures.clear();
  });
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
