/** Whether a key pressed in a question's field sends it: Enter, but for Shift+Enter and one that ends a word of an input method. */
export function sends(event: KeyboardEvent): boolean {
  return event.key === "Enter" && !event.shiftKey && !event.isComposing;
}
