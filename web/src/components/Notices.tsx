import type { VNode } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { askForKey, changeSettings, changeSystem, giveKey } from "../state";
import type { App } from "../state";
import { LIMITS } from "../types";
import { Dialog } from "./Dialog";

/** What every reader has to know, as the README says it. */
export function Safety({ onServer, onClose }: { onServer: boolean; onClose: () => void }): VNode {
  return (
    <Dialog title="Not a medical device" onClose={onClose}>
      <div class="prose">
        <p>
          MedGemma's answers can be wrong, also when they sound sure. They are for developers and researchers to build on
          and for clinicians to review; nobody should be diagnosed or treated by them alone.
        </p>
        <ul>
          <li>A qualified person must look at every output.</li>
          <li>Check what it says against the record, and where it draws a box, against the image.</li>
          <li>Citations such as <cite>Observation/o254</cite> are written by the model, and can be made up.</li>
          <li>It doesn't know what it was not shown: no record, no earlier image, nothing after its training.</li>
          <li>Evaluate the model on your own data before you rely on it for anything.</li>
        </ul>
        <h3>Where your data is</h3>
        <p>
          Questions and images go to the server that this page came from, and nowhere else.{" "}
          {onServer
            ? "Its operator has set it up to keep conversations and their images for everyone with your key, if you want them kept; who runs the server can read them."
            : "Conversations are kept in this browser, if you want them kept; anyone who uses this browser profile can read them."}
        </p>
      </div>
    </Dialog>
  );
}

/** What answers, by what the server says of it. */
export function ModelCard({ app, onClose }: { app: App; onClose: () => void }): VNode {
  const model = app.models.find(({ id }) => id === app.model);
  const yes = (value: boolean | null): string => (value === null ? "not stated" : value ? "yes" : "no");
  const known = new Set(["id", "object", "created", "capabilities", "demo", ...(model?.context ? ["context_length", "max_model_len", "context"] : [])]);
  // A server that doesn't know when its model was made says 0.
  const says = (name: string, value: unknown): boolean => ["string", "number", "boolean"].includes(typeof value) && !(name === "created" && value === 0);
  const more = Object.entries(model?.raw ?? {}).filter(([name, value]) => !known.has(name) && says(name, value));
  const words = (name: string, value: unknown): string => {
    if (typeof value !== "number") return String(value);
    return name === "created" ? new Date(value * 1000).toLocaleString() : value.toLocaleString();
  };
  return (
    <Dialog title="Model" onClose={onClose}>
      {model === undefined ? (
        <p>{app.trouble ?? "The server has not said yet what it serves."}</p>
      ) : (
        <dl class="card">
          <Fact name="Name" value={model.id} />
          <Fact name="Reads images" value={yes(model.images)} />
          <Fact name="Can think" value={yes(model.thinks)} />
          {model.context !== null && <Fact name="Context" value={`${model.context.toLocaleString()} tokens`} />}
          {more.map(([name, value]) => (
            <Fact key={name} name={name.replace(/_/g, " ")} value={words(name, value)} />
          ))}
        </dl>
      )}
      <div class="prose">
        {model?.demo === true && (
          <p>
            <strong>This is the demo model, a toy.</strong> It was trained on synthetic pictures and made-up records, knows
            no medicine, and nothing it says is for a patient.
          </p>
        )}
        <h3>Intended use</h3>
        <p>
          MedGemma models are Gemma 3 models that Google trained on medical text and images (chest radiographs, CT, MR,
          dermatology, fundus and pathology images, patient records), as a starting point for developers of health
          applications. They are not meant to be used for diagnosis or treatment without validation, adaptation and review.
        </p>
        <h3>Limits</h3>
        <p>
          Evaluated mostly on single images and in English. Answers vary with how a question is put. Several images and
          long conversations were evaluated less than one question about one image.
        </p>
        <p>
          The models are under the{" "}
          <a href="https://developers.google.com/health-ai-developer-foundations/terms" target="_blank" rel="noopener noreferrer">
            Health AI Developer Foundations terms
          </a>
          . <a href="https://developers.google.com/health-ai-developer-foundations/medgemma/model-card" target="_blank" rel="noopener noreferrer">Google's model card</a>{" "}
          (these links leave this machine).
        </p>
      </div>
    </Dialog>
  );
}

function Fact({ name, value }: { name: string; value: string }): VNode {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{value}</dd>
    </div>
  );
}

/** How answers are asked for. */
export function SettingsDialog({ app, onClose }: { app: App; onClose: () => void }): VNode {
  const { settings, current } = app;
  return (
    <Dialog title="Settings" onClose={onClose}>
      <div class="form">
        {app.models.length > 1 && <p class="hint">The model is chosen at the top of the page.</p>}
        <label>
          Instructions for this conversation
          <textarea rows={4} value={current.system} placeholder="You are an expert radiologist." onInput={(event) => changeSystem(event.currentTarget.value)} />
        </label>
        <NumberField
          label="Temperature"
          hint="How freely the model words its answer. 0 gives the same answer each time."
          kind="a number"
          limits={LIMITS.temperature}
          step="any"
          value={settings.temperature}
          onChange={(temperature) => changeSettings({ temperature })}
        />
        <NumberField
          label="Most tokens an answer"
          hint="How long an answer may become. 100 tokens are about 75 words; a thought counts, too."
          kind="a whole number"
          limits={LIMITS.maxTokens}
          step="1"
          value={settings.maxTokens}
          onChange={(maxTokens) => changeSettings({ maxTokens })}
        />
      </div>
    </Dialog>
  );
}

interface NumberProps {
  label: string;
  hint: string;
  /** What is to be typed, in words. */
  kind: string;
  limits: readonly [number, number];
  step: string;
  value: number | null;
  onChange: (value: number | null) => void;
}

/** A number or nothing; one that the server would refuse stays in the field alone. */
function NumberField({ label, hint, kind, limits: [least, most], step, value, onChange }: NumberProps): VNode {
  const [wrong, setWrong] = useState(false);
  const used = value === null ? "the server's own" : value.toLocaleString();
  return (
    <label>
      {label}
      <input
        type="number"
        min={least}
        max={most}
        step={step}
        placeholder="the server's"
        defaultValue={value === null ? "" : String(value)}
        aria-invalid={wrong}
        onInput={({ currentTarget: { validity, value: text } }) => {
          setWrong(!validity.valid);
          if (validity.valid) onChange(text === "" ? null : Number(text));
        }}
      />
      <span class="hint">{hint}</span>
      {wrong && (
        <span class="hint problem" role="alert">
          Give {kind} from {least} to {most.toLocaleString()}, or leave this empty. Until then {used} is used.
        </span>
      )}
    </label>
  );
}

/** Asked when the server answers 401. */
export function KeyDialog({ unknown }: { unknown: boolean }): VNode {
  const [key, setKey] = useState("");
  const field = useRef<HTMLInputElement>(null);
  // What is typed next replaces a key that was refused.
  useEffect(() => {
    if (!unknown) return;
    field.current?.focus();
    field.current?.select();
  }, [unknown]);
  return (
    <Dialog title="Key" onClose={() => askForKey(false)}>
      <form
        class="form"
        onSubmit={(event) => {
          event.preventDefault();
          void giveKey(key);
        }}
      >
        <label>
          The server asks for an API key
          <input
            ref={field}
            type="password"
            required
            autofocus
            autocomplete="off"
            aria-invalid={unknown}
            value={key}
            onInput={(event) => setKey(event.currentTarget.value)}
          />
          <span class="hint">Kept until this tab is closed.</span>
        </label>
        {unknown && <p class="problem" role="alert">That key isn't known here.</p>}
        <button type="submit" class="primary">Continue</button>
      </form>
    </Dialog>
  );
}
