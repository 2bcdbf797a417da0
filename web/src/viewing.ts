/** How a picture is looked at. The model never sees any of this. */
export interface View {
  /** Screen pixels a picture pixel; 0 before the first fit. */
  zoom: number;
  /** Where the picture's top left corner lies, in screen pixels. */
  x: number;
  y: number;
}

/** Grey levels shown: `level` is the middle, `window` the width, of 0…255. */
export interface Greys {
  window: number;
  level: number;
  invert: boolean;
}

export const WHOLE: Greys = { window: 255, level: 127.5, invert: false };

/** The whole picture in the middle of a space. */
export function fit(width: number, height: number, space: { width: number; height: number }): View {
  const zoom = Math.min(space.width / width, space.height / height) || 1;
  return { zoom, x: (space.width - width * zoom) / 2, y: (space.height - height * zoom) / 2 };
}

/** Zooms by a factor; the point (x, y) of the space stays where it is. */
export function zoomAt(view: View, factor: number, x: number, y: number): View {
  const zoom = Math.min(40, Math.max(0.02, view.zoom * factor));
  const ratio = zoom / view.zoom;
  return { zoom, x: x - (x - view.x) * ratio, y: y - (y - view.y) * ratio };
}

/** Where each of 256 levels goes: DICOM PS3.3 C.11.2.1.2.1's linear function, on 8 bits. */
export function table({ window, level, invert }: Greys): Uint8ClampedArray {
  const low = level - window / 2;
  const out = new Uint8ClampedArray(256);
  for (let value = 0; value < 256; value += 1) {
    const shown = ((value - low) / Math.max(1, window)) * 255;
    out[value] = invert ? 255 - shown : shown;
  }
  return out;
}

/** Applies a table to the colours of RGBA pixels. */
export function apply(source: Uint8ClampedArray, levels: Uint8ClampedArray, target: Uint8ClampedArray): void {
  for (let at = 0; at < source.length; at += 4) {
    target[at] = levels[source[at]!]!;
    target[at + 1] = levels[source[at + 1]!]!;
    target[at + 2] = levels[source[at + 2]!]!;
    target[at + 3] = source[at + 3]!;
  }
}
