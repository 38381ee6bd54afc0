// Pages are rendered on the server only. A live page fetches its own HTML again and takes over what
// differs, so nothing is drawn twice in two languages.

export async function fetchDocument(address) {
  const answer = await fetch(address, { headers: { accept: "text/html" } });
  if (answer.redirected) {
    location.reload(); // to the login: the token has ended
    throw new Error(`${address} takes a token`);
  }
  if (!answer.ok) throw new Error(`${address} answered ${answer.status}`);
  return new DOMParser().parseFromString(await answer.text(), "text/html");
}

// What an element says, leaving out the texts that this page keeps true by itself.
function essence(element) {
  const copy = element.cloneNode(true);
  for (const time of copy.querySelectorAll("time[data-ago], time[data-since]")) {
    time.textContent = "";
    time.removeAttribute("title");
  }
  for (const details of copy.querySelectorAll("details")) details.removeAttribute("open");
  for (const node of [copy, ...copy.querySelectorAll(".fresh")]) node.classList.remove("fresh");
  return copy.outerHTML;
}

// Makes the children of `now`, which all have ids, those of `next`: unchanged ones stay untouched.
export function adoptChildren(now, next) {
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
    if (essence(old) !== essence(child)) old.replaceWith(child);
  }
}

// Takes over each `[data-live]` element of `next` whose content differs from the one of that id here.
// The keyboard's focus stays on what has the same id.
export function adoptParts(next) {
  for (const part of next.querySelectorAll("[data-live]")) {
    const old = document.getElementById(part.id);
    if (!old || essence(old) === essence(part)) continue;
    const focused = old.contains(document.activeElement) ? document.activeElement.id : "";
    old.replaceWith(part);
    if (focused) document.getElementById(focused)?.focus();
  }
}
