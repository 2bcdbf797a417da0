import { useEffect, useState } from "preact/hooks";
import * as store from "../store";

/** The address of a kept picture in this page, or null while it is fetched, or when it is gone. */
export function usePicture(id: string): string | null {
  const [url, setUrl] = useState<string | null>(null);
  useEffect(() => {
    let made: string | null = null;
    let gone = false;
    void store.picture(id).then(
      (blob) => {
        if (gone || blob === null) return;
        made = URL.createObjectURL(blob);
        setUrl(made);
      },
      // The server can't be asked now: there is no picture, as when it is gone.
      () => undefined,
    );
    return () => {
      gone = true;
      if (made !== null) URL.revokeObjectURL(made);
    };
  }, [id]);
  return url;
}
