import type { RefObject } from "preact";
import { useEffect, useRef } from "preact/hooks";

interface Handlers {
  onPan: (x: number, y: number) => void;
  /** A factor, and the point that stays, in the element's pixels. */
  onZoom: (factor: number, x: number, y: number) => void;
  onWindow: (x: number, y: number) => void;
}

/** Mouse, pen and fingers over a picture: one moves it, two zoom it, the right button or Shift changes window and level. */
export function usePointers(target: RefObject<HTMLElement | null>, handlers: Handlers): void {
  const now = useRef(handlers);
  now.current = handlers;
  useEffect(() => {
    const element = target.current;
    if (element === null) return;
    const down = new Map<number, { x: number; y: number }>();
    const inside = (x: number, y: number): [number, number] => {
      const { left, top } = element.getBoundingClientRect();
      return [x - left, y - top];
    };
    const press = (event: PointerEvent): void => {
      element.setPointerCapture(event.pointerId);
      down.set(event.pointerId, { x: event.clientX, y: event.clientY });
    };
    const move = (event: PointerEvent): void => {
      const before = down.get(event.pointerId);
      if (before === undefined) return;
      const [dx, dy] = [event.clientX - before.x, event.clientY - before.y];
      const other = [...down].find(([id]) => id !== event.pointerId)?.[1];
      down.set(event.pointerId, { x: event.clientX, y: event.clientY });
      if (other !== undefined) {
        const was = Math.hypot(before.x - other.x, before.y - other.y);
        const is = Math.hypot(event.clientX - other.x, event.clientY - other.y);
        if (was > 0) now.current.onZoom(is / was, ...inside((event.clientX + other.x) / 2, (event.clientY + other.y) / 2));
        now.current.onPan(dx / 2, dy / 2);
      } else if (event.shiftKey || (event.buttons & 2) !== 0) now.current.onWindow(dx, dy);
      else now.current.onPan(dx, dy);
    };
    const release = (event: PointerEvent): void => void down.delete(event.pointerId);
    const wheel = (event: WheelEvent): void => {
      event.preventDefault();
      now.current.onZoom(Math.exp(-event.deltaY / 400), ...inside(event.clientX, event.clientY));
    };
    const menu = (event: Event): void => event.preventDefault();
    element.addEventListener("pointerdown", press);
    element.addEventListener("pointermove", move);
    element.addEventListener("pointerup", release);
    element.addEventListener("pointercancel", release);
    element.addEventListener("wheel", wheel, { passive: false });
    element.addEventListener("contextmenu", menu);
    return () => {
      element.removeEventListener("pointerdown", press);
      element.removeEventListener("pointermove", move);
      element.removeEventListener("pointerup", release);
      element.removeEventListener("pointercancel", release);
      element.removeEventListener("wheel", wheel);
      element.removeEventListener("contextmenu", menu);
    };
  }, []);
}
