import { findBoxes } from "./boxes";
import type { ModelTurn, Session } from "./types";

export const NOTICE =
  "Not a medical device. MedGemma's answers can be wrong, also when they sound sure. A qualified person must check " +
  "every answer against the record and the images.";

/** A conversation as a document; pictures by their names, the notice on top. */
export function toMarkdown(session: Session): string {
  const out = [`# ${session.title}`, `> ${NOTICE}`, `${new Date(session.updated).toISOString()}`];
  if (session.system.trim() !== "") out.push("## Instructions", session.system.trim());
  for (const turn of session.turns) {
    if (turn.role === "user") {
      out.push("## Question");
      for (const { name, width, height } of turn.pictures) out.push(`- Image: ${name} (${width} × ${height} px)`);
      if (turn.text !== "") out.push(turn.text);
    } else {
      out.push(`## Answer (${turn.model})`);
      if (turn.thought.trim() !== "") {
        out.push("<details><summary>Thought</summary>", turn.thought.trim(), "</details>");
      }
      out.push(turn.text.trim());
      const end = ending(turn);
      if (end !== "") out.push(`*${end}*`);
    }
  }
  return out.filter((part) => part !== "").join("\n\n") + "\n";
}

/** What the reader has to know of how an answer ended; "" for an ordinary end. */
export function ending(turn: ModelTurn): string {
  switch (turn.finish) {
    case "length":
      return "Cut off: the limit of tokens was reached.";
    case "thought":
      return "The thought took all tokens that there were; there is no answer.";
    case "time":
      return "Cut off: the server's time for an answer was up.";
    case "stopped":
      return "Stopped by you.";
    case "error":
      return turn.problem ?? "An error ended this answer.";
    case null:
    case "stop":
      return "";
    default:
      return /loop|repeat|repetition/.test(turn.finish)
        ? "Ended because the model began to repeat itself."
        : `Ended early (${turn.finish}).`;
  }
}

/** What "Copy" puts on the clipboard: the answer in words, its boxes as they were written. */
export function toCopy(turn: ModelTurn): string {
  const { text, json } = findBoxes(turn.text);
  return json === "" ? turn.text.trim() : [text, json].filter((part) => part !== "").join("\n\n");
}

export function download(session: Session): void {
  const blob = new Blob([toMarkdown(session)], { type: "text/markdown;charset=utf-8" });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${session.title.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 40).replace(/^-+|-+$/g, "") || "conversation"}.md`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
