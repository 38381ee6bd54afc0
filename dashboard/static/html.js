// Only the server renders pages. A live page fetches its own HTML again and replaces the parts that
// differ, so no part is written in two languages.

export async function fetchDocument(address) {
  const response = await fetch(address, { headers: { accept: "text/html" } });
  if (response.redirected) {
    location.reload(); // leads to the login: the token was revoked
    throw new Error(`${address} requires a token`);
  }
  if (!response.ok) throw new Error(`${address} answered ${response.status}`);
  return new DOMParser().parseFromString(await response.text(), "text/html");
}

// The HTML of an element without the texts that this page updates by itself.
function comparableHtml(element) {
  const copy = element.cloneNode(true);
  for (const time of copy.querySelectorAll("time[data-ago], time[data-since]")) {
    time.textContent = "";
    time.removeAttribute("title");
  }
  for (const details of copy.querySelectorAll("details")) details.removeAttribute("open");
  for (const node of [copy, ...copy.querySelectorAll(".fresh")]) node.classList.remove("fresh");
  return copy.outerHTML;
}

// Replaces the children of `now`, which all have ids, by those of `next`; unchanged ones stay.
export function syncChildren(now, next) {
  const wanted = new Set([...next.children].map((child) => child.id));
  for (const child of [...now.children]) if (!wanted.has(child.id)) child.remove();
  let place = now.firstElementChild;
  for (const child of [...next.children]) {
    const old = document.getElementById(child.id);
    if (!old) {
      child.classList.add("fresh");
      now.insertBefore(child, place);
      continue;
    }
    if (old !== place) now.insertBefore(old, place);
    place = old.nextElementSibling;
    if (comparableHtml(old) !== comparableHtml(child)) old.replaceWith(child);
  }
}

// Replaces each `[data-live]` element whose content differs from the one in `next` with its id.
// The keyboard's focus stays on the element with the same id; details with an id stay open, and
// lists with an id stay scrolled.
export function syncParts(next) {
  for (const part of next.querySelectorAll("[data-live]")) {
    const old = document.getElementById(part.id);
    if (!old || comparableHtml(old) === comparableHtml(part)) continue;
    const focused = old.contains(document.activeElement) ? document.activeElement.id : "";
    const opened = [...old.querySelectorAll("details[open][id]")].map((details) => details.id);
    const scrolled = [...old.querySelectorAll("[id]")].map(({ id, scrollTop }) => [id, scrollTop]).filter(([, top]) => top);
    old.replaceWith(part);
    for (const id of opened) document.getElementById(id)?.setAttribute("open", "");
    for (const [id, top] of scrolled) document.getElementById(id)?.scrollTo({ top, behavior: "instant" });
    if (focused) document.getElementById(focused)?.focus();
  }
}
