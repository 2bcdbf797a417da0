import type { VNode } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { Composer } from "./components/Composer";
import { Icon } from "./components/Icon";
import { Answer, Question, type OpenViewer } from "./components/Message";
import { KeyDialog, ModelCard, Safety, SettingsDialog } from "./components/Notices";
import { Sidebar } from "./components/Sidebar";
import { Viewer } from "./components/Viewer";
import { download, NOTICE } from "./export";
import { askForKey, chooseModel, newSession, start, stop, useApp, type App } from "./state";
import type { Box, Picture, Turn } from "./types";

type Shown = "safety" | "model" | "settings" | null;
type Looking = { pictures: Picture[]; start: Picture; boxes: Box[] } | null;

const SUGGESTIONS = [
  { title: "Report an image", text: "Describe this X-ray.", locate: false },
  { title: "Find something on it", text: "Where is the opacity?", locate: true },
  { title: "Compare two images", text: "The first image is the earlier one. Has it improved, is it stable, or has it worsened?", locate: false },
  { title: "Ask a question", text: "What is the hallmark sign of ", locate: false },
];

export function Workbench(): VNode {
  const app = useApp();
  const [shown, setShown] = useState<Shown>(null);
  const [looking, setLooking] = useState<Looking>(null);
  const [drawer, setDrawer] = useState(false);
  const [suggestion, setSuggestion] = useState<{ text: string; locate: boolean } | null>(null);
  const { current, writing } = app;
  const open = useRef<OpenViewer>((pictures, start, boxes) => setLooking({ pictures, start, boxes })).current;

  useEffect(() => {
    void start();
    const keys = (event: KeyboardEvent): void => {
      if (event.key === "Escape" && document.querySelector("dialog[open]") === null) {
        stop();
        setDrawer(false);
      }
      if (event.key.toLowerCase() === "o" && event.shiftKey && (event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        newSession();
      }
    };
    window.addEventListener("keydown", keys);
    return () => window.removeEventListener("keydown", keys);
  }, []);

  return (
    <div class="page">
      <a class="skip" href="#ask">Skip to the question</a>
      <Sidebar app={app} open={drawer} onClose={() => setDrawer(false)} />
      {drawer && <div class="shade" onClick={() => setDrawer(false)} />}
      <div class="main">
        <Header app={app} onMenu={() => setDrawer(true)} onShow={setShown} />
        {app.trouble !== null && <p class="trouble" role="status">{app.trouble}</p>}
        {app.needsKey !== null && !app.askingKey && (
          <p class="trouble" role="status">
            The server asks for a key. <button type="button" class="link" onClick={() => askForKey(true)}>Give a key</button>
          </p>
        )}
        <Transcript app={app} open={open} onSuggest={setSuggestion} />
        <footer class="foot" id="ask">
          <Composer
            settings={app.settings}
            model={app.models.find(({ id }) => id === app.model)}
            writing={writing !== null}
            needsKey={app.needsKey !== null}
            earlier={current.turns.some((turn) => turn.role === "user" && turn.pictures.length > 0)}
            suggestion={suggestion}
            session={current.id}
            onOpen={open}
          />
          <p class="notice">
            <strong>Not a medical device.</strong> Check every answer against the record and the image.{" "}
            <button type="button" class="link" onClick={() => setShown("safety")}>Safety</button>
          </p>
        </footer>
      </div>
      {shown === "safety" && <Safety onServer={app.onServer} onClose={() => setShown(null)} />}
      {shown === "model" && <ModelCard app={app} onClose={() => setShown(null)} />}
      {shown === "settings" && <SettingsDialog app={app} onClose={() => setShown(null)} />}
      {looking !== null && <Viewer {...looking} onClose={() => setLooking(null)} />}
      {app.askingKey && <KeyDialog unknown={app.needsKey === "other"} />}
      <p class="visually-hidden" role="status">{writing !== null ? "The model is answering." : current.turns.length > 0 ? "The answer is complete." : ""}</p>
    </div>
  );
}

function Header({ app, onMenu, onShow }: { app: App; onMenu: () => void; onShow: (shown: Shown) => void }): VNode {
  const { models, model, current, writing, needsKey } = app;
  const empty = current.turns.length === 0;
  return (
    <header class="head">
      <button type="button" class="quiet only-narrow" aria-label="Conversations" onClick={onMenu}><Icon name="menu" /></button>
      <h1>{empty ? "New conversation" : current.title}</h1>
      {models.length > 1 && (
        <select aria-label="Model" value={model} onChange={(event) => chooseModel(event.currentTarget.value)}>
          {models.map(({ id }) => <option key={id} value={id}>{id}</option>)}
        </select>
      )}
      <button type="button" class="model" aria-label={`Model card: ${model || "no model"}`} onClick={() => (model === "" && needsKey !== null ? askForKey(true) : onShow("model"))}>
        {models.length > 1 ? "Card" : model || "No model"}
      </button>
      <button type="button" class="quiet" aria-label="Settings" title="Settings" onClick={() => onShow("settings")}><Icon name="tune" /></button>
      <button type="button" class="quiet" aria-label="Download as Markdown" title="Download as Markdown" disabled={empty || writing !== null} onClick={() => download(current)}>
        <Icon name="export" />
      </button>
      <button type="button" class="quiet not-narrow" aria-label="Print or save as PDF" title="Print or save as PDF" disabled={empty || writing !== null} onClick={() => window.print()}>
        <Icon name="print" />
      </button>
    </header>
  );
}

interface TranscriptProps {
  app: App;
  open: OpenViewer;
  onSuggest: (suggestion: { text: string; locate: boolean }) => void;
}

function Transcript({ app, open, onSuggest }: TranscriptProps): VNode {
  const { current, writing } = app;
  const scroller = useRef<HTMLElement>(null);
  const following = useRef(true);
  useLayoutEffect(() => {
    // The end stays in sight while an answer grows, unless the reader has gone up to read; the first page is read from its top.
    if (current.turns.length === 0) scroller.current?.scrollTo({ top: 0 });
    else if (following.current) scroller.current?.scrollTo({ top: scroller.current.scrollHeight });
  }, [current]);
  useEffect(() => {
    following.current = true;
  }, [current.id]);
  return (
    <main
      class="transcript"
      ref={scroller}
      tabIndex={-1}
      onScroll={(event) => {
        const { scrollHeight, scrollTop, clientHeight } = event.currentTarget;
        following.current = scrollHeight - scrollTop - clientHeight < 60;
      }}
    >
      <div class="column">
        <p class="print-only">{NOTICE} Model: {app.model}. {new Date(current.updated).toLocaleString()}.</p>
        {current.turns.length === 0 ? (
          <section class="welcome">
            <h2>What would you like to look at?</h2>
            <p>Ask in words, or drop PNG or JPEG images anywhere on this page. They go to the server of this page and nowhere else.</p>
            <ul>
              {SUGGESTIONS.map(({ title, text, locate }) => (
                <li key={title}>
                  <button type="button" onClick={() => onSuggest({ text, locate })}>
                    <span class="suggestion-title">{title}</span>
                    <span>{text.trim()}{text.endsWith(" ") ? " …" : ""}</span>
                  </button>
                </li>
              ))}
            </ul>
          </section>
        ) : (
          current.turns.map((turn, index) =>
            turn.role === "user" ? (
              <Question key={turn.id} turn={turn} busy={writing !== null} onOpen={open} />
            ) : (
              <Answer
                key={turn.id}
                turn={turn}
                pictures={picturesBefore(current.turns, index)}
                busy={writing !== null}
                followed={index < current.turns.length - 1}
                onOpen={open}
              />
            ),
          )
        )}
      </div>
    </main>
  );
}

const NONE: Picture[] = [];

/** The pictures that an answer speaks of: those of the last question before it that had any. */
function picturesBefore(turns: Turn[], index: number): Picture[] {
  for (let at = index - 1; at >= 0; at -= 1) {
    const turn = turns[at];
    if (turn?.role === "user" && turn.pictures.length > 0) return turn.pictures;
  }
  return NONE;
}
