import type { VNode } from "preact";

/** Strokes on a grid of 20; `currentColor`, so that they follow the text. */
const PATHS = {
  add: "M10 4v12M4 10h12",
  image: "M3.5 4.5h13v11h-13zM3.5 13l3.5-3.5 3 3 2.5-2.5 4 4M12.8 7.6h.01",
  send: "M10 16V4.5M5 9.5l5-5 5 5",
  stop: "M6 6h8v8H6z",
  copy: "M7 7h9v9H7zM13 7V4H4v9h3",
  retry: "M15.5 10a5.5 5.5 0 1 1-1.7-4M14 3v3.2h-3.2",
  edit: "M4 16l.8-3.4L13.4 4l2.6 2.6-8.6 8.6z",
  trash: "M4 6h12M8 6V4h4v2M5.5 6l.7 10h7.6l.7-10",
  menu: "M3.5 6h13M3.5 10h13M3.5 14h13",
  close: "M5 5l10 10M15 5L5 15",
  tune: "M4 6h6M14 6h2M4 14h2M10 14h6M12 4v4M8 12v4",
  export: "M10 3.5v9M6.5 9l3.5 3.5L13.5 9M4 16h12",
  print: "M6 8V3.5h8V8M6 14H3.5V8h13v6H14M6 11.5h8v5H6z",
  left: "M12 4l-6 6 6 6",
  right: "M8 4l6 6-6 6",
  plus: "M10 5v10M5 10h10",
  minus: "M5 10h10",
  fit: "M4 8V4h4M12 4h4v4M16 12v4h-4M8 16H4v-4",
  check: "M4.5 10.5l3.5 3.5 7.5-8",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name }: { name: IconName }): VNode {
  return (
    <svg class="icon" viewBox="0 0 20 20" aria-hidden="true" focusable="false">
      <path d={PATHS[name]} />
    </svg>
  );
}
