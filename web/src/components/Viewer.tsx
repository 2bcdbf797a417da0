import type { VNode } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import type { Box, Picture } from "../types";
import { fit, WHOLE, zoomAt, type Greys, type View } from "../viewing";
import { BoxList, Overlay } from "./Boxes";
import { Canvas } from "./Canvas";
import { Dialog } from "./Dialog";
import { Icon } from "./Icon";
import { usePointers } from "./usePointers";

interface Props {
  pictures: Picture[];
  start: Picture;
  boxes: Box[];
  onClose: () => void;
}

const NOWHERE: View = { zoom: 0, x: 0, y: 0 };

/** One picture large: zoom, pan, window and level, boxes. */
export function Viewer({ pictures, start, boxes, onClose }: Props): VNode {
  const [at, setAt] = useState(Math.max(0, pictures.findIndex(({ id }) => id === start.id)));
  const [view, setView] = useState<View>(NOWHERE);
  const [greys, setGreys] = useState<Greys>(WHOLE);
  const [shown, setShown] = useState(true);
  const stage = useRef<HTMLDivElement>(null);
  const picture = pictures[at] ?? start;

  const refit = (): void => {
    const space = stage.current?.getBoundingClientRect();
    if (space) setView(fit(picture.width, picture.height, space));
  };
  useEffect(() => {
    const element = stage.current;
    if (element === null) return;
    const observer = new ResizeObserver(refit);
    observer.observe(element);
    return () => observer.disconnect();
  }, [picture.id]);

  const zoom = (factor: number): void => {
    const space = stage.current?.getBoundingClientRect();
    if (space) setView((now) => zoomAt(now, factor, space.width / 2, space.height / 2));
  };
  const pan = (x: number, y: number): void => setView((now) => ({ ...now, x: now.x + x, y: now.y + y }));
  const go = (by: number): void => setAt((now) => Math.min(pictures.length - 1, Math.max(0, now + by)));
  const window = (change: { window?: number; level?: number }): void =>
    setGreys((now) => ({
      ...now,
      window: within(now.window + (change.window ?? 0), 1, 255),
      level: within(now.level + (change.level ?? 0), 0, 255),
    }));
  const reset = (): void => {
    refit();
    setGreys(WHOLE);
  };
  usePointers(stage, {
    onPan: pan,
    onZoom: (factor, x, y) => setView((now) => zoomAt(now, factor, x, y)),
    onWindow: (x, y) => window({ window: x / 2, level: y / 2 }),
  });

  const keys: Record<string, () => void> = {
    "+": () => zoom(1.25),
    "=": () => zoom(1.25),
    "-": () => zoom(0.8),
    "0": reset,
    ArrowLeft: () => pan(40, 0),
    ArrowRight: () => pan(-40, 0),
    ArrowUp: () => pan(0, 40),
    ArrowDown: () => pan(0, -40),
    b: () => setShown((now) => !now),
    i: () => setGreys((now) => ({ ...now, invert: !now.invert })),
    PageUp: () => go(-1),
    PageDown: () => go(1),
  };
  const transform = `translate(${view.x}px, ${view.y}px) scale(${view.zoom})`;

  return (
    <Dialog title={pictures.length > 1 ? `${at + 1} of ${pictures.length} · ${picture.name}` : picture.name} class="viewer" onClose={onClose}>
      <div class="viewer-main">
        <div
          ref={stage}
          class="stage"
          tabIndex={0}
          role="application"
          aria-label="Image. Arrow keys move, plus and minus zoom, 0 resets, I inverts, B shows or hides boxes, Page Up and Page Down change the image."
          onKeyDown={(event) => {
            const action = keys[event.key];
            if (action === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
            event.preventDefault();
            action();
          }}
        >
          <div class={view.zoom > 6 ? "sheet pixels" : "sheet"} style={{ width: picture.width, height: picture.height, transform, "--zoom": view.zoom }}>
            <Canvas picture={picture} greys={greys} />
            {shown && boxes.length > 0 && <Overlay boxes={boxes} picture={picture} />}
          </div>
        </div>
        <aside class="viewer-side" aria-label="Viewer settings">
          <div class="row">
            <button type="button" aria-label="Zoom out" onClick={() => zoom(0.8)}><Icon name="minus" /></button>
            <output class="zoom" aria-label="Zoom">{Math.round(view.zoom * 100)} %</output>
            <button type="button" aria-label="Zoom in" onClick={() => zoom(1.25)}><Icon name="plus" /></button>
            <button type="button" onClick={reset}>Reset</button>
          </div>
          <Slider label="Window" value={greys.window} least={1} onChange={(value) => setGreys({ ...greys, window: value })} />
          <Slider label="Level" value={greys.level} least={0} onChange={(value) => setGreys({ ...greys, level: value })} />
          <label class="check">
            <input type="checkbox" checked={greys.invert} onChange={(event) => setGreys({ ...greys, invert: event.currentTarget.checked })} /> Invert
          </label>
          {boxes.length > 0 && (
            <>
              <label class="check">
                <input type="checkbox" checked={shown} onChange={(event) => setShown(event.currentTarget.checked)} /> Boxes
              </label>
              <BoxList boxes={boxes} picture={picture} />
            </>
          )}
          {pictures.length > 1 && (
            <div class="row">
              <button type="button" disabled={at === 0} onClick={() => go(-1)}><Icon name="left" /> Previous</button>
              <button type="button" disabled={at === pictures.length - 1} onClick={() => go(1)}>Next <Icon name="right" /></button>
            </div>
          )}
          <p class="hint">
            This changes what you see, not what the model saw. {picture.width} × {picture.height} px.{" "}
            <span class="with-mouse">Drag to move, wheel or pinch to zoom, right button or Shift and drag for window and level.</span>
            <span class="with-finger">Drag with one finger to move, with two to zoom.</span>
          </p>
        </aside>
      </div>
    </Dialog>
  );
}

function within(value: number, least: number, most: number): number {
  return Math.min(most, Math.max(least, value));
}

interface SliderProps {
  label: string;
  value: number;
  least: number;
  onChange: (value: number) => void;
}

function Slider({ label, value, least, onChange }: SliderProps): VNode {
  return (
    <label class="slider">
      <span>{label}</span>
      <output>{Math.round(value)}</output>
      <input type="range" aria-label={label} min={least} max={255} value={value} onInput={(event) => onChange(Number(event.currentTarget.value))} />
    </label>
  );
}
