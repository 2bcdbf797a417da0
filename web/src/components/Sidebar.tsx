import type { VNode } from "preact";
import { useState } from "preact/hooks";
import { changeSettings, deleteAll, deleteSession, newSession, openSession, refresh } from "../state";
import type { App } from "../state";
import { Icon } from "./Icon";

/** Past conversations, and what becomes of them. */
export function Sidebar({ app, open, onClose }: { app: App; open: boolean; onClose: () => void }): VNode {
  // What is about to be deleted: a conversation's id, or all of them.
  const [sure, setSure] = useState<string | null>(null);
  const ALL = "all";
  return (
    <nav class={open ? "sidebar open" : "sidebar"} aria-label="Conversations">
      <div class="brand">
        <img src="/assets/mark.svg" alt="" width="24" height="24" />
        <span>MedGemma</span>
        <button type="button" class="quiet only-narrow" aria-label="Close the list" onClick={onClose}><Icon name="close" /></button>
      </div>
      <button
        type="button"
        class="new"
        onClick={() => {
          newSession();
          onClose();
        }}
      >
        <Icon name="add" /> New conversation
      </button>
      <ul class="sessions">
        {app.sessions.map((session) => sure === session.id ? (
          <li key={session.id} class="sure">
            <span class="session-title">{session.title}</span>
            <div class="row" role="group" aria-label={`Delete “${session.title}”?`}>
              <button
                type="button"
                class="danger"
                ref={(element) => element?.focus()}
                onClick={() => {
                  setSure(null);
                  void deleteSession(session);
                }}
              >
                Delete
              </button>
              <button type="button" class="plain" onClick={() => setSure(null)}>Keep</button>
            </div>
          </li>
        ) : (
          <li key={session.id} class={session.id === app.current.id ? "current" : ""}>
            <button
              type="button"
              class="open-session"
              aria-current={session.id === app.current.id ? "page" : undefined}
              title={session.title}
              onClick={() => {
                openSession(session);
                onClose();
              }}
            >
              <span class="session-title">{session.title}</span>
              <span class="session-date">{new Date(session.updated).toLocaleDateString(undefined, { day: "numeric", month: "short" })}</span>
            </button>
            <button type="button" class="quiet small" aria-label={`Delete “${session.title}”`} onClick={() => setSure(session.id)}>
              <Icon name="trash" />
            </button>
          </li>
        ))}
      </ul>
      <div class="keeping">
        <label class="check">
          <input type="checkbox" checked={app.settings.keep} onChange={(event) => changeSettings({ keep: event.currentTarget.checked })} />
          Keep conversations
        </label>
        <p class="hint">
          {where(app)}
        </p>
        {app.unkept !== null && <p class="hint problem" role="status">{app.unkept}</p>}
        {app.sessions.length > 0 &&
          (sure === ALL ? (
            <div class="row" role="group" aria-label="Delete all conversations?">
              <button
                type="button"
                class="danger"
                onClick={() => {
                  setSure(null);
                  void deleteAll();
                }}
              >
                Delete {app.sessions.length}
              </button>
              <button type="button" class="plain" onClick={() => setSure(null)}>Cancel</button>
            </div>
          ) : (
            <button type="button" class="quiet small" onClick={() => void refresh(true).then(() => setSure(ALL))}><Icon name="trash" /> Delete all</button>
          ))}
      </div>
    </nav>
  );
}

/** Where conversations are kept, in words. */
function where({ settings, onServer }: App): string {
  if (!settings.keep) return onServer ? "Nothing more is kept. What the server has kept stays until you delete it." : "Nothing is kept: closing the page forgets them.";
  return onServer ? "On the server, as its operator has set up, until you delete them." : "In this browser only, until you delete them.";
}
