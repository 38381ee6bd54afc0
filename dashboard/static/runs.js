// The run list: filters without a page load, and rows that update live.
import { alertActions } from "./alerts.js";
import { tick } from "./format.js";
import { syncChildren, syncParts, fetchDocument } from "./html.js";
import { listen, throttle } from "./live.js";
import { siteRoot } from "./site.js";

const form = document.getElementById("filters");
let request = 0;

async function refresh() {
  const mine = ++request;
  const next = await fetchDocument(location.href);
  if (mine !== request) return;
  syncParts(next);
  const list = document.getElementById("list");
  const fresh = next.getElementById("list");
  const rows = document.getElementById("rows");
  const freshRows = fresh.querySelector("#rows");
  if (rows && freshRows && !list.contains(document.activeElement?.closest("thead"))) {
    syncChildren(rows, freshRows);
    for (const selector of [":scope > .chips", "thead", ".pages"]) {
      const old = list.querySelector(selector);
      const replacement = fresh.querySelector(selector);
      if (old.innerHTML !== replacement.innerHTML) old.innerHTML = replacement.innerHTML;
    }
  } else {
    list.replaceWith(fresh);
  }
  tick();
}

async function show(address, push = true) {
  if (push) history.pushState(null, "", address);
  else history.replaceState(null, "", address);
  syncForm(); // before the answer comes: what is typed meanwhile stays
  await refresh();
}

function formAddress() {
  const given = [...new FormData(form)].filter(([name, value]) => value && !(name === "sort" && value === "-started_at"));
  const query = new URLSearchParams(given).toString();
  return query ? `${siteRoot}?${query}` : siteRoot;
}

let typing = 0;
form.addEventListener("input", (event) => {
  clearTimeout(typing);
  const search = event.target.name === "search";
  typing = setTimeout(() => show(formAddress(), !search), search ? 180 : 0);
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  show(formAddress());
});

// Sets the form to the filters that a link chose.
function syncForm() {
  const query = new URLSearchParams(location.search);
  for (const name of ["search", "project", "sort"]) {
    const field = form.elements.namedItem(name);
    const value = query.get(name) ?? (name === "sort" ? "-started_at" : "");
    if (field.value !== value) field.value = value;
  }
  for (const name of ["status", "tag", "group"]) {
    for (const old of form.querySelectorAll(`input[name=${name}]`)) old.remove();
    for (const value of query.getAll(name)) form.append(Object.assign(document.createElement("input"), { type: "hidden", name, value }));
  }
}

document.addEventListener("click", async (event) => {
  const link = event.target.closest("a[data-swap]");
  if (!link || event.metaKey || event.ctrlKey || event.shiftKey || event.button) return;
  event.preventDefault();
  const name = link.dataset.swap;
  await show(link.href);
  // The links were drawn again: keep the keyboard where it was.
  document.querySelector(`a[data-swap="${name}"]`)?.focus({ preventScroll: true });
});
addEventListener("popstate", () => {
  syncForm();
  refresh();
});

alertActions(refresh);
listen(null, throttle(refresh, 1000));
document.documentElement.dataset.ready = "";
