import type { VNode } from "preact";
import { useState } from "preact/hooks";
import { findBoxes } from "../boxes";
import { ending, toCopy } from "../export";
import { Markdown } from "../markdown";
import { edit, retry } from "../state";
import type { Box, ModelTurn, Picture, UserTurn } from "../types";
import { BoxFigure } from "./Boxes";
import { Icon } from "./Icon";
import { sends } from "./keys";
import { memo } from "./memo";
import { Thumb } from "./Thumb";

/** Shows a picture of a set in the viewer, with boxes over it. */
export type OpenViewer = (pictures: Picture[], start: Picture, boxes: Box[]) => void;

export function Question({ turn, busy, onOpen }: { turn: UserTurn; busy: boolean; onOpen: OpenViewer }): VNode {
  const [draft, setDraft] = useState<string | null>(null);
  const save = (): void => {
    if (draft === null || (draft.trim() === "" && turn.pictures.length === 0)) return;
    setDraft(null);
    edit(turn.id, draft.trim());
  };
  return (
    <article class="turn question" aria-label="Question">
      <h2 class="visually-hidden">Question</h2>
      {turn.pictures.length > 0 && (
        <ol class="thumbs" aria-label="Images of this question">
          {turn.pictures.map((picture, index) => (
            <li key={picture.id}>
              <Thumb picture={picture} number={turn.pictures.length > 1 ? index + 1 : null} onOpen={() => onOpen(turn.pictures, picture, [])} />
            </li>
          ))}
        </ol>
      )}
      {draft === null ? (
        <>
          {turn.text !== "" && <p class="said">{turn.text}</p>}
          {turn.locate && <p class="hint">Boxes asked for</p>}
          <div class="actions">
            <button type="button" class="quiet small" disabled={busy} onClick={() => setDraft(turn.text)}>
              <Icon name="edit" /> Edit
            </button>
          </div>
        </>
      ) : (
        <form
          class="editing"
          onSubmit={(event) => {
            event.preventDefault();
            save();
          }}
        >
          <textarea
            aria-label="Edit the question"
            value={draft}
            rows={Math.min(12, draft.split("\n").length + 1)}
            ref={(element) => element?.focus()}
            onInput={(event) => setDraft(event.currentTarget.value)}
            onKeyDown={(event) => {
              if (event.key === "Escape" && !event.isComposing) setDraft(null);
              if (!sends(event)) return;
              event.preventDefault();
              save();
            }}
          />
          <p class="hint">What follows this question is replaced.</p>
          <div class="row">
            <button type="submit" class="primary">Ask again</button>
            <button type="button" class="plain" onClick={() => setDraft(null)}>Cancel</button>
          </div>
        </form>
      )}
    </article>
  );
}

interface AnswerProps {
  turn: ModelTurn;
  /** The pictures that the answer may speak of. */
  pictures: Picture[];
  busy: boolean;
  /** Whether other turns follow, which an answer written anew takes away. */
  followed: boolean;
  onOpen: OpenViewer;
}

/** Drawn anew only when its turn changes: a long conversation stays light while the last answer streams. */
export const Answer = memo(function Answer({ turn, pictures, busy, followed, onOpen }: AnswerProps): VNode {
  const writing = turn.finish === null;
  const { text, boxes, json } = findBoxes(turn.text);
  const end = ending(turn);
  return (
    <article class="turn answer" aria-label="Answer of the model" aria-busy={writing}>
      <h2 class="visually-hidden">Answer</h2>
      {turn.thought !== "" && (
        <details class="thought">
          <summary>{writing && turn.text === "" ? "Thinking…" : "Thought"}</summary>
          <p class="hint">Notes on the way to the answer. They may be wrong, and are not part of it.</p>
          <Markdown text={turn.thought.trim()} />
        </details>
      )}
      {writing && turn.text === "" && turn.thought === "" && <p class="waiting">Reading…</p>}
      {text !== "" && <Markdown text={text} />}
      {boxes.length > 0 && (
        <BoxFigure boxes={boxes} pictures={pictures} json={json} onOpen={(picture) => onOpen(pictures, picture, boxes)} />
      )}
      {end !== "" && <p class={turn.finish === "error" ? "ending problem" : "ending"}>{end}</p>}
      {!writing && (
        <div class="actions">
          <Copy text={toCopy(turn)} />
          <Retry turn={turn} busy={busy} followed={followed} />
          <span class="meta">{meta(turn)}</span>
        </div>
      )}
    </article>
  );
});

/** Asks first where more than the answer itself would go. */
function Retry({ turn, busy, followed }: { turn: ModelTurn; busy: boolean; followed: boolean }): VNode {
  const [sure, setSure] = useState(false);
  if (!sure || !followed)
    return (
      <button type="button" class="quiet small" disabled={busy} onClick={() => (followed ? setSure(true) : retry(turn.id))}>
        <Icon name="retry" /> Retry
      </button>
    );
  return (
    <div class="row sure" role="group" aria-label="Retry, and delete all that follows?">
      <span>What follows is deleted.</span>
      <button type="button" class="danger small" disabled={busy} ref={(element) => element?.focus()} onClick={() => retry(turn.id)}>Retry and delete</button>
      <button type="button" class="plain small" onClick={() => setSure(false)}>Keep</button>
    </div>
  );
}

function Copy({ text }: { text: string }): VNode {
  const [said, setSaid] = useState("Copy");
  const copy = async (): Promise<void> => {
    try {
      await navigator.clipboard.writeText(text);
      setSaid("Copied");
    } catch {
      // Plain http:// from another machine has no clipboard.
      setSaid("Not allowed here");
    }
    setTimeout(() => setSaid("Copy"), 2000);
  };
  return (
    <button type="button" class="quiet small" disabled={text === ""} onClick={() => void copy()}>
      <Icon name={said === "Copied" ? "check" : "copy"} /> <span aria-live="polite">{said}</span>
    </button>
  );
}

function meta(turn: ModelTurn): string {
  const speed = turn.tokens !== undefined && turn.seconds !== undefined;
  return speed ? `${turn.tokens} tokens · ${turn.seconds!.toFixed(1)} s` : "";
}
