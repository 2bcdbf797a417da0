import type { VNode } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import * as store from "../store";
import type { Picture } from "../types";
import { apply, table, WHOLE, type Greys } from "../viewing";

/** A picture with its grey levels windowed, one canvas pixel a picture pixel. */
export function Canvas({ picture, greys }: { picture: Picture; greys: Greys }): VNode {
  const canvas = useRef<HTMLCanvasElement>(null);
  const [pixels, setPixels] = useState<ImageData | null>(null);
  const [problem, setProblem] = useState("");

  useEffect(() => {
    let gone = false;
    setPixels(null);
    void read(picture).then(
      (read) => gone || setPixels(read),
      () => gone || setProblem("This image is no longer kept."),
    );
    return () => {
      gone = true;
    };
  }, [picture.id]);

  useEffect(() => {
    const context = canvas.current?.getContext("2d");
    if (!context || pixels === null) return;
    // One pass a frame, however fast the pointer moves.
    const frame = requestAnimationFrame(() => {
      const whole = greys.window === WHOLE.window && greys.level === WHOLE.level && !greys.invert;
      if (whole) {
        context.putImageData(pixels, 0, 0);
        return;
      }
      const shown = context.createImageData(pixels.width, pixels.height);
      apply(pixels.data, table(greys), shown.data);
      context.putImageData(shown, 0, 0);
    });
    return () => cancelAnimationFrame(frame);
  }, [pixels, greys]);

  if (problem !== "") return <p class="gone">{problem}</p>;
  return <canvas ref={canvas} width={picture.width} height={picture.height} role="img" aria-label={picture.name} />;
}

async function read(picture: Picture): Promise<ImageData> {
  const blob = await store.picture(picture.id);
  if (blob === null) throw new Error("gone");
  const bitmap = await createImageBitmap(blob);
  const canvas = document.createElement("canvas");
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (context === null) throw new Error("no canvas");
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return context.getImageData(0, 0, canvas.width, canvas.height);
}
