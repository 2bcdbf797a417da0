import type { Box, Picture, Rect } from "./types";

/** What an answer says in words, and what it says in boxes. */
export interface Located {
  /** The answer without the JSON. */
  text: string;
  boxes: Box[];
  /** The JSON as the model wrote it. */
  json: string;
}

const MOST = 100;

/**
 * The boxes of an answer: the last JSON list of objects with `box_2d` in it, fenced or bare. Models write the list with
 * or without a fence, behind "Final Answer:", and cut off when they run out of tokens; only a whole list counts.
 */
export function findBoxes(answer: string): Located {
  const none = { text: answer, boxes: [], json: "" };
  if (!answer.includes("box_2d")) return none;
  for (let start = answer.lastIndexOf("["); start >= 0; start = start === 0 ? -1 : answer.lastIndexOf("[", start - 1)) {
    const end = closing(answer, start);
    if (end < 0) continue;
    const json = answer.slice(start, end + 1);
    const boxes = parse(json);
    if (boxes === null) continue;
    const before = answer.slice(0, start).replace(/```(json)?\s*$/, "");
    const after = answer.slice(end + 1).replace(/^\s*```/, "");
    const text = (before.replace(/(\*\*)?Final Answer:(\*\*)?\s*$/i, "") + after).trim();
    return { text, boxes, json };
  }
  return none;
}

/** Where the bracket at `start` closes, or -1; brackets inside strings don't count. */
function closing(text: string, start: number): number {
  let depth = 0;
  let quoted = false;
  for (let at = start; at < text.length; at += 1) {
    const char = text[at];
    if (quoted) {
      if (char === "\\") at += 1;
      else if (char === '"') quoted = false;
    } else if (char === '"') quoted = true;
    else if (char === "[") depth += 1;
    else if (char === "]" && (depth -= 1) === 0) return at;
  }
  return -1;
}

function parse(json: string): Box[] | null {
  let list: unknown;
  try {
    list = JSON.parse(json);
  } catch {
    return null;
  }
  if (!Array.isArray(list) || list.length === 0) return null;
  const boxes: Box[] = [];
  for (const entry of list.slice(0, MOST)) {
    const corners: unknown = entry?.box_2d;
    if (!Array.isArray(corners) || corners.length !== 4) return null;
    const [y0, x0, y1, x1] = corners.map((value) => Math.min(1000, Math.max(0, Number(value)))) as [
      number,
      number,
      number,
      number,
    ];
    if (![y0, x0, y1, x1].every(Number.isFinite) || y0 >= y1 || x0 >= x1) continue;
    boxes.push({ y0, x0, y1, x1, label: typeof entry.label === "string" ? entry.label : "" });
  }
  return boxes.length > 0 ? boxes : null;
}

/** Where a box lies on the original picture, in its pixels: the model saw the picture in the middle of a black square. */
export function onPicture(box: Box, { width, height }: Pick<Picture, "width" | "height">): Rect {
  const side = Math.max(width, height);
  const left = Math.floor((side - width) / 2);
  const top = Math.floor((side - height) / 2);
  const within = (value: number, most: number): number => Math.min(most, Math.max(0, value));
  const x0 = within((box.x0 / 1000) * side - left, width);
  const x1 = within((box.x1 / 1000) * side - left, width);
  const y0 = within((box.y0 / 1000) * side - top, height);
  const y1 = within((box.y1 / 1000) * side - top, height);
  return { x: x0, y: y0, width: x1 - x0, height: y1 - y0 };
}

/** The published instructions that the model was trained to answer with boxes, around the reader's question. */
export function askForBoxes(question: string): string {
  return `Instructions:
The following user query will require outputting bounding boxes. The format of bounding boxes coordinates is [y0, x0, y1, x1] where (y0, x0) must be top-left corner and (y1, x1) the bottom-right corner. This implies that x0 < x1 and y0 < y1. Always normalize the x and y coordinates the range [0, 1000], meaning that a bounding box starting at 15% of the image width would be associated with an x coordinate of 150. You MUST output a single parseable json list of objects enclosed into \`\`\`json...\`\`\` brackets, for instance \`\`\`json[{"box_2d": [800, 3, 840, 471], "label": "car"}, {"box_2d": [400, 22, 600, 73], "label": "dog"}]\`\`\` is a valid output. Now answer to the user query.

Remember "left" refers to the patient's left side where the heart is and sometimes underneath an L in the upper right corner of the image.

Query:
${question} Don't give a final answer without reasoning. Output the final answer in the format "Final Answer: X" where X is a JSON list of objects. The object needs a "box_2d" and "label" key. Answer:`;
}
