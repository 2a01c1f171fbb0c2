/** The secret of the page's server: taken from the address, kept for this tab, and sent with every request. */

import { signal } from "@preact/signals";

const KEY = "convolith-token";
/** The secret, or null: a page without a server, or opened by another address than the server's. */
export const token = signal<string | null>(null);

function stored(): string | null {
  try {
    return sessionStorage.getItem(KEY);
  } catch {
    return null; // a browser that keeps nothing: the secret lasts until the page is loaded again
  }
}

/** Take the secret out of the address, `#t=SECRET`, before the state is read there; without a state, Compute is shown. */
export function takeToken(): void {
  const match = /^#t=([\w-]{1,200})(?:&(.*))?$/.exec(location.hash);
  if (!match) {
    token.value ??= stored();
    return;
  }
  const state = match[2] || "v=1&view=compute";
  history.replaceState(null, "", `${location.pathname}${location.search}#${state}`);
  token.value = match[1]!;
  try {
    sessionStorage.setItem(KEY, match[1]!);
  } catch {
    // as above
  }
}

/** Take the secret now, and whenever another address of the server is opened in this tab; before the state is read. */
export function followToken(): void {
  takeToken();
  addEventListener("popstate", takeToken);
  addEventListener("hashchange", takeToken);
}
