import { newId, type Picture } from "./types";

/** Longer sides are shrunk before sending: the model looks at 896 pixels, and a request has a limit. */
const MOST_SIDE = 4096;
const MOST_BYTES = 50 * 1024 * 1024;

export const ACCEPTED = ["image/png", "image/jpeg"];

/** A picture file of the reader's, checked; throws words for the reader. */
export async function open(file: File): Promise<{ picture: Picture; blob: Blob }> {
  if (!ACCEPTED.includes(file.type)) throw new Error(`${file.name}: only PNG and JPEG pictures can be added here.`);
  if (file.size > MOST_BYTES) throw new Error(`${file.name} is larger than 50 MB.`);
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error(`${file.name} can't be read as a picture.`);
  }
  const picture = { id: newId(), name: file.name, width: bitmap.width, height: bitmap.height };
  bitmap.close();
  return { picture, blob: file };
}

/**
 * What is sent for a picture: its own bytes where it is a square; otherwise a PNG of it in the middle of a black square,
 * as the model was trained to see pictures, so that boxes mean the same whether or not the server pads.
 */
export async function forModel(picture: Picture, blob: Blob): Promise<string> {
  const { width, height } = picture;
  if (width === height && width <= MOST_SIDE) return dataUrl(blob);
  const bitmap = await createImageBitmap(blob);
  const whole = Math.max(width, height);
  const side = Math.min(whole, MOST_SIDE);
  const scale = side / whole;
  const canvas = document.createElement("canvas");
  canvas.width = side;
  canvas.height = side;
  const context = canvas.getContext("2d");
  if (context === null) throw new Error("This browser has no canvas.");
  context.fillStyle = "#000";
  context.fillRect(0, 0, side, side);
  context.imageSmoothingQuality = "high";
  const left = Math.floor((whole - width) / 2) * scale;
  const top = Math.floor((whole - height) / 2) * scale;
  context.drawImage(bitmap, left, top, width * scale, height * scale);
  bitmap.close();
  const square = await new Promise<Blob | null>((done) => canvas.toBlob(done, "image/png"));
  if (square === null) throw new Error(`${picture.name} can't be prepared for the model.`);
  return dataUrl(square);
}

function dataUrl(blob: Blob): Promise<string> {
  return new Promise((done, fail) => {
    const reader = new FileReader();
    reader.onload = () => done(String(reader.result));
    reader.onerror = () => fail(new Error("The picture can't be read."));
    reader.readAsDataURL(blob);
  });
}
