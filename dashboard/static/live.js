// The live stream: one EventSource for each page, closed while the page is hidden, because a browser
// allows six connections to a site and every open tab would hold one.

import { siteRoot } from "./site.js";

const state = document.getElementById("link-state");

function showState(name, text) {
  if (state.dataset.state === name) return;
  state.dataset.state = name;
  state.textContent = text;
}

// Calls `onChange(change)` for every {revision, runs, deleted} since the page was made, and
// `onChange(null)` when anything may have changed: after a pause, or when the server skipped this page
// forward.
export function listen(run, onChange) {
  const query = new URLSearchParams({ after: document.getElementById("content").dataset.revision });
  if (run) query.set("run", run);
  const address = `${siteRoot}api/live?${query}`;
  let source = null;
  let missed = false;

  function open() {
    if (source) return;
    source = new EventSource(address);
    source.addEventListener("hello", () => {
      showState("live", "Live");
      if (missed) onChange(null);
      missed = false;
    });
    source.addEventListener("changes", (event) => onChange(JSON.parse(event.data)));
    source.addEventListener("reset", () => onChange(null));
    source.addEventListener("error", () => {
      showState("waiting", "Reconnecting");
      missed = true;
      if (source.readyState === EventSource.CLOSED) {
        close();
        onChange(null); // refused: the page's own requests show the reason
        setTimeout(() => document.hidden || open(), 3000);
      }
    });
  }

  function close() {
    source?.close();
    source = null;
    missed = true;
  }

  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  addEventListener("pagehide", close);
  addEventListener("pageshow", () => document.hidden || open());
  if (!document.hidden) open();
}

// Runs `work` at most once per `gap` milliseconds, and never twice at once. A call in between is
// remembered, so `work` always runs after the last call.
export function throttle(work, gap) {
  let waiting = null;
  let busy = false;
  let again = false;
  let last = -Infinity;

  async function go() {
    waiting = null;
    busy = true;
    again = false;
    try {
      await work();
    } finally {
      busy = false;
      last = performance.now();
      if (again) ask();
    }
  }

  function ask() {
    if (busy) again = true;
    else waiting ??= setTimeout(go, Math.max(0, last + gap - performance.now()));
  }
  return ask;
}
