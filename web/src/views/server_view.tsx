/** Views that need the page's server; without one the page says how to start it. */

import type { ComponentType } from "preact";
import { token } from "../server/token";
import { LazyView } from "./lazy_view";

const PROBLEM = "The view cannot be loaded: the server does not answer. Start `convolith serve` again, and open the address that it prints.";

/** Return the component of a view that needs the server. */
export function serverView(name: string, title: string): ComponentType {
  return function ServerView() {
    if (token.value === null) return <NoServer title={title} />;
    return <LazyView name={name} title={title} script="server" hasStyle problem={PROBLEM} />;
  };
}

function NoServer({ title }: { title: string }) {
  return (
    <>
      <section class="card">
        <h2>{title} needs the page’s server</h2>
        <p>
          This view computes with the library itself, in a Python process on your machine. Install Convolith with the extra
          “web”, start the server, and open the address that it prints:
        </p>
        <pre tabIndex={0} aria-label="Commands that start the server">
          {"pip install 'convolith[web]'\nconvolith serve"}
        </pre>
        <p class="note">
          If the server runs already, open the whole address that it printed, with what follows the #: only that address
          has the secret without which the server answers nobody.
        </p>
      </section>
    </>
  );
}
