/** What a server sends last. */
export const DONE = "[DONE]";
/** How long a server may take to close the connection after that, in milliseconds. */
const CLOSES = 1000;

/**
 * The `data` fields of a server-sent event stream, one string an event. Lines may end in CR, LF or both, and bytes may
 * be cut anywhere, inside a UTF-8 character too.
 */
export async function* events(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let waiting = "";
  let data: string[] = [];
  let over = false;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      waiting += done ? decoder.decode() + "\n" : decoder.decode(value, { stream: true });
      // A CR at the very end may be the first half of a CRLF: it waits for the next bytes.
      const end = done ? waiting.length : waiting.length - (waiting.endsWith("\r") ? 1 : 0);
      const lines = waiting.slice(0, end).split(/\r\n|\n|\r/);
      waiting = (lines.pop() ?? "") + waiting.slice(end);
      for (const line of lines) {
        if (line === "") {
          const event = data.join("\n");
          over ||= event === DONE;
          if (data.length > 0) yield event;
          data = [];
        } else if (line.startsWith("data:")) {
          data.push(line.slice(line.startsWith("data: ") ? 6 : 5));
        }
      }
      if (done) {
        if (data.length > 0) yield data.join("\n");
        return;
      }
    }
  } finally {
    // Leaving the loop early (the reader pressed Stop) closes the connection, which frees the sequence on the server. A
    // whole answer's is closed by the server: were it closed here, the browser would show a request that failed.
    if (over) void readOut(reader);
    else await reader.cancel().catch(() => undefined);
  }
}

/** Reads to the end, which nobody waits for; closes the connection where the server doesn't. */
async function readOut(reader: ReadableStreamDefaultReader<Uint8Array>): Promise<void> {
  const late = setTimeout(() => void reader.cancel().catch(() => undefined), CLOSES);
  try {
    while (!(await reader.read()).done);
  } catch {
    // The connection broke off, after all had come.
  } finally {
    clearTimeout(late);
  }
}
