import type { VNode } from "preact";
import { onPicture } from "../boxes";
import type { Box, Picture } from "../types";
import { usePicture } from "./usePicture";

/** Distinguishable on black and on grey, also without seeing red and green apart; the numbers say the same. */
export const COLOURS = 6;

/** Boxes over a picture, in its pixels; strokes keep their width at any zoom. */
export function Overlay({ boxes, picture, class: name = "" }: { boxes: Box[]; picture: Picture; class?: string }): VNode {
  const { width, height } = picture;
  const size = Math.max(width, height) / 26;
  return (
    <svg class={`overlay ${name}`} viewBox={`0 0 ${width} ${height}`} aria-hidden="true">
      {boxes.map((box, index) => {
        const rect = onPicture(box, picture);
        if (rect.width <= 0 || rect.height <= 0) return null;
        const colour = `box-${index % COLOURS}`;
        return (
          <g key={index} class={colour}>
            <rect class="halo" {...rect} />
            <rect class="line" {...rect} />
            <rect class="tag" x={rect.x} y={rect.y} width={size * 1.2} height={size * 1.2} />
            <text x={rect.x + size * 0.6} y={rect.y + size * 0.95} font-size={size} text-anchor="middle">
              {index + 1}
            </text>
          </g>
        );
      })}
    </svg>
  );
}

/** What each box is, and where, in words: what the picture shows to those who can't see it. */
export function BoxList({ boxes, picture }: { boxes: Box[]; picture: Picture | undefined }): VNode {
  return (
    <ol class="box-list">
      {boxes.map((box, index) => (
        <li key={index} class={`box-${index % COLOURS}`}>
          <span class="swatch" aria-hidden="true">{index + 1}</span>
          <span class="box-label">{box.label || "unnamed"}</span>
          <span class="box-place">{place(box, picture)}</span>
        </li>
      ))}
    </ol>
  );
}

function place(box: Box, picture: Picture | undefined): string {
  if (picture === undefined) return `x ${box.x0}–${box.x1}, y ${box.y0}–${box.y1} of 1000`;
  const { x, y, width, height } = onPicture(box, picture);
  const px = Math.round;
  return `x ${px(x)}–${px(x + width)}, y ${px(y)}–${px(y + height)} px`;
}

interface FigureProps {
  boxes: Box[];
  pictures: Picture[];
  json: string;
  onOpen: (picture: Picture) => void;
}

/** An answer's boxes on the picture they were asked of. */
export function BoxFigure({ boxes, pictures, json, onOpen }: FigureProps): VNode {
  const several = pictures.length > 1;
  return (
    <figure class="boxes">
      <div class="box-pictures">
        {pictures.map((picture, index) => (
          <BoxedPicture key={picture.id} picture={picture} boxes={boxes} number={several ? index + 1 : null} onOpen={onOpen} />
        ))}
      </div>
      <figcaption>
        <BoxList boxes={boxes} picture={several ? undefined : pictures[0]} />
        {several && <p class="hint">The answer doesn't say which image it means, so the boxes are drawn on each.</p>}
        {pictures.length === 0 && <p class="hint">There is no image in this conversation to draw them on.</p>}
        <details>
          <summary>JSON</summary>
          <pre tabIndex={0}>
            <code>{json}</code>
          </pre>
        </details>
      </figcaption>
    </figure>
  );
}

interface BoxedProps {
  picture: Picture;
  boxes: Box[];
  number: number | null;
  onOpen: (picture: Picture) => void;
}

function BoxedPicture({ picture, boxes, number, onOpen }: BoxedProps): VNode {
  const url = usePicture(picture.id);
  const name = `Open ${picture.name} with ${boxes.length} ${boxes.length === 1 ? "box" : "boxes"} in the viewer`;
  return (
    <button type="button" class="boxed" aria-label={name} onClick={() => onOpen(picture)}>
      {url !== null && <img src={url} alt="" width={picture.width} height={picture.height} />}
      <Overlay boxes={boxes} picture={picture} />
      {number !== null && <span class="number">{number}</span>}
    </button>
  );
}
