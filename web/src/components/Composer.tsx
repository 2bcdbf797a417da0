import type { VNode } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import * as pictures from "../pictures";
import { askForKey, changeSettings, send, stop } from "../state";
import * as store from "../store";
import type { ModelInfo, Picture, Settings } from "../types";
import { Icon } from "./Icon";
import { sends } from "./keys";
import type { OpenViewer } from "./Message";
import { Thumb } from "./Thumb";

interface Props {
  settings: Settings;
  model: ModelInfo | undefined;
  writing: boolean;
  /** Whether a key is asked for before anything is sent. */
  needsKey: boolean;
  /** Whether the conversation has pictures already, which boxes may be asked on. */
  earlier: boolean;
  /** Text to begin with, from one of the first page's suggestions; a new object each time one is chosen. */
  suggestion: { text: string; locate: boolean } | null;
  /** The conversation that is shown. */
  session: string;
  onOpen: OpenViewer;
}

export function Composer({ settings, model, writing, needsKey, earlier, suggestion, session, onOpen }: Props): VNode {
  const [text, setText] = useState("");
  const [added, setAdded] = useState<Picture[]>([]);
  const [locate, setLocate] = useState(false);
  const [problem, setProblem] = useState("");
  const [dragging, setDragging] = useState(false);
  const area = useRef<HTMLTextAreaElement>(null);
  const chooser = useRef<HTMLInputElement>(null);
  const can = (text.trim() !== "" || added.length > 0) && !writing && (needsKey || model !== undefined);
  const sees = model?.images !== false;

  const add = async (files: Iterable<File>): Promise<void> => {
    setProblem("");
    // One after the other, so that pictures stay in the order in which they were chosen.
    for (const file of files) {
      try {
        const { picture, blob } = await pictures.open(file);
        store.addPicture(picture.id, blob);
        setAdded((before) => [...before, picture]);
      } catch (error) {
        setProblem(error instanceof Error ? error.message : "That picture can't be read.");
      }
    }
    area.current?.focus();
  };
  const submit = (): void => {
    if (!can) return;
    if (needsKey) {
      askForKey(true);
      return;
    }
    send(text.trim(), added, locate && (earlier || added.length > 0));
    setText("");
    setLocate(false);
    setAdded([]);
    setProblem("");
  };

  useEffect(() => setProblem(""), [session]);
  useEffect(() => {
    if (suggestion === null) return;
    setText(suggestion.text);
    setLocate(suggestion.locate);
    area.current?.focus();
  }, [suggestion]);
  // As tall as its text; beyond the style sheet's limit it scrolls.
  useLayoutEffect(() => {
    const element = area.current;
    if (element === null) return;
    element.style.height = "auto";
    element.style.height = `${element.scrollHeight}px`;
  }, [text]);
  useEffect(() => {
    const files = (event: DragEvent): boolean => event.dataTransfer?.types.includes("Files") ?? false;
    const over = (event: DragEvent): void => {
      if (!files(event)) return;
      event.preventDefault();
      setDragging(true);
    };
    const leave = (event: DragEvent): void => {
      if (event.relatedTarget === null) setDragging(false);
    };
    const drop = (event: DragEvent): void => {
      if (!files(event)) return;
      event.preventDefault();
      setDragging(false);
      void add(event.dataTransfer?.files ?? []);
    };
    window.addEventListener("dragover", over);
    window.addEventListener("dragleave", leave);
    window.addEventListener("drop", drop);
    return () => {
      window.removeEventListener("dragover", over);
      window.removeEventListener("dragleave", leave);
      window.removeEventListener("drop", drop);
    };
  }, []);

  const move = (from: number, by: number): void => {
    const next = [...added];
    const [picture] = next.splice(from, 1);
    if (picture !== undefined) next.splice(from + by, 0, picture);
    setAdded(next);
  };

  return (
    <form
      class="composer"
      aria-label="Ask"
      onSubmit={(event) => {
        event.preventDefault();
        submit();
      }}
    >
      {dragging && <div class="drop-veil">Drop PNG or JPEG images to add them</div>}
      {added.length > 0 && (
        <ol class="thumbs" aria-label="Images to send, in this order">
          {added.map((picture, index) => (
            <li key={picture.id}>
              <Thumb picture={picture} number={added.length > 1 ? index + 1 : null} onOpen={() => onOpen(added, picture, [])} />
              <div class="thumb-tools">
                {index > 0 && (
                  <button type="button" aria-label={`Move ${picture.name} earlier`} onClick={() => move(index, -1)}><Icon name="left" /></button>
                )}
                {index < added.length - 1 && (
                  <button type="button" aria-label={`Move ${picture.name} later`} onClick={() => move(index, 1)}><Icon name="right" /></button>
                )}
                <button type="button" aria-label={`Remove ${picture.name}`} onClick={() => setAdded(added.filter(({ id }) => id !== picture.id))}>
                  <Icon name="close" />
                </button>
              </div>
            </li>
          ))}
        </ol>
      )}
      {added.length > 0 && !sees && <p class="problem">This model reads text alone; it can't be sent images.</p>}
      {problem !== "" && <p class="problem" role="alert">{problem}</p>}
      <textarea
        ref={area}
        rows={1}
        value={text}
        placeholder={added.length > 0 ? "Ask about the image" : "Ask, or drop an image"}
        aria-label="Your question"
        onInput={(event) => {
          setText(event.currentTarget.value);
          setProblem("");
        }}
        onPaste={(event) => {
          const files = [...(event.clipboardData?.files ?? [])];
          if (files.length === 0) return;
          event.preventDefault();
          void add(files);
        }}
        onKeyDown={(event) => {
          if (!sends(event)) return;
          event.preventDefault();
          submit();
        }}
      />
      <div class="tools">
        <input
          ref={chooser}
          type="file"
          hidden
          multiple
          accept={pictures.ACCEPTED.join(",")}
          aria-label="Choose images"
          onChange={(event) => {
            const input = event.currentTarget;
            void add([...(input.files ?? [])]).then(() => (input.value = ""));
          }}
        />
        <button type="button" class="quiet" disabled={!sees} onClick={() => chooser.current?.click()}>
          <Icon name="image" /> Images
        </button>
        <Toggle label="Think" title="Let the model think before it answers" on={settings.think} disabled={model?.thinks === false} onChange={(think) => changeSettings({ think })} />
        <Toggle label="Boxes" title="Ask for boxes on the image" on={locate} disabled={!sees} onChange={setLocate} />
        <span class="space" />
        {writing ? (
          <button type="button" class="primary round" aria-label="Stop" onClick={stop}><Icon name="stop" /></button>
        ) : (
          <button type="submit" class="primary round" aria-label="Send" disabled={!can}><Icon name="send" /></button>
        )}
      </div>
    </form>
  );
}

interface ToggleProps {
  label: string;
  title: string;
  on: boolean;
  disabled: boolean;
  onChange: (on: boolean) => void;
}

function Toggle({ label, title, on, disabled, onChange }: ToggleProps): VNode {
  return (
    <button type="button" class="toggle" title={title} aria-pressed={on && !disabled} disabled={disabled} onClick={() => onChange(!on)}>
      {label}
    </button>
  );
}
