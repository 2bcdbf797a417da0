/**
 * The `data` fields of a server-sent event stream, one string an event. Lines may end in CR, LF or both, and bytes may
 * be cut anywhere, inside a UTF-8 character too.
 */
export async function* events(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let waiting = "";
  let data: string[] = [];
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
          if (data.length > 0) yield data.join("\n");
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
    // Leaving the loop early (the reader pressed Stop) closes the connection, which frees the sequence on the server.
    await reader.cancel().catch(() => undefined);
  }
}
