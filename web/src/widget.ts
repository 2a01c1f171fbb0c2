/**
 * A figure of the explorer in a notebook, as anywidget shows it.
 *
 * The page is in a frame of its own, so that figures in one notebook share neither state nor styles with each other or
 * with the notebook. The frame's name is the state that it begins with; changes come and go as messages.
 */

interface Model {
  get(name: "page" | "address" | "title"): string;
  get(name: "height"): number;
  set(name: "address", value: string): void;
  save_changes(): void;
  on(event: "change:address", call: () => void): void;
  off(event: "change:address", call: () => void): void;
}

function render({ model, el }: { model: Model; el: HTMLElement }): () => void {
  const frame = document.createElement("iframe");
  let known = model.get("address");
  frame.title = model.get("title");
  frame.name = known;
  frame.setAttribute("sandbox", "allow-scripts allow-downloads");
  frame.setAttribute("allow", "clipboard-write");
  frame.srcdoc = model.get("page");
  Object.assign(frame.style, { width: "100%", height: `${model.get("height")}px`, border: "0", borderRadius: "8px" });
  const hear = ({ source, data }: MessageEvent): void => {
    if (source !== frame.contentWindow || typeof data?.convolith !== "string") return;
    frame.name = known = data.convolith;
    model.set("address", known);
    model.save_changes();
  };
  const tell = (): void => {
    const address = model.get("address");
    if (address === known) return;
    frame.name = known = address;
    frame.contentWindow?.postMessage({ convolith: address }, "*");
  };
  addEventListener("message", hear);
  model.on("change:address", tell);
  el.append(frame);
  return () => {
    removeEventListener("message", hear);
    model.off("change:address", tell);
    frame.remove();
  };
}

export default { render };
