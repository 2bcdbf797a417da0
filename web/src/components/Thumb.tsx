import type { VNode } from "preact";
import type { Picture } from "../types";
import { usePicture } from "./usePicture";

/** A small picture that opens the viewer. */
export function Thumb({ picture, number, onOpen }: { picture: Picture; number: number | null; onOpen: () => void }): VNode {
  const url = usePicture(picture.id);
  return (
    <button type="button" class="thumb" title={`${picture.name} (${picture.width} × ${picture.height})`} aria-label={`Open ${picture.name} in the viewer`} onClick={onOpen}>
      {url !== null && <img src={url} alt="" />}
      {number !== null && <span class="number">{number}</span>}
    </button>
  );
}
