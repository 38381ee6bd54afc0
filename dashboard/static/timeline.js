// The timeline, newest first: filters by kind, older events on demand, new ones live. The server
// renders every entry.
import { fetchDocument } from "./html.js";
import { siteRoot } from "./site.js";

export class Timeline {
  constructor(run, root) {
    this.address = `${siteRoot}timeline/${encodeURIComponent(run)}`;
    this.list = root.querySelector("#timeline-list");
    this.more = root.querySelector("#more");
    this.kinds = root.querySelector("#kinds");
    this.hidden = new Set(this.kinds.dataset.hidden.split(","));
    this.kinds.addEventListener("click", (event) => this.choose(event.target.closest("[data-kind]")));
    this.more.addEventListener("click", () => this.older());
  }

  choose(chip) {
    if (!chip) return;
    const { kind } = chip.dataset;
    if (!this.hidden.delete(kind)) this.hidden.add(kind);
    chip.setAttribute("aria-pressed", !this.hidden.has(kind));
    this.restart();
  }

  async fetch(query = {}) {
    const hide = [...this.hidden].join(",");
    return fetchDocument(`${this.address}?${new URLSearchParams({ ...query, hide })}`);
  }

  entries() {
    return [...this.list.querySelectorAll("li[data-id]")];
  }

  async restart() {
    const next = await this.fetch();
    this.list.replaceChildren(...next.querySelectorAll("#timeline-list > li"));
    this.syncChips(next);
    this.more.hidden = !next.querySelector("#timeline-list").dataset.more;
  }

  async older() {
    const next = await this.fetch({ before: this.entries().at(-1).dataset.id });
    this.list.append(...next.querySelectorAll("#timeline-list > li[data-id]"));
    this.more.hidden = !next.querySelector("#timeline-list").dataset.more;
  }

  async newer() {
    const newest = this.entries()[0]?.dataset.id;
    if (newest === undefined) return this.restart();
    const next = await this.fetch({ after: newest });
    const fresh = [...next.querySelectorAll("#timeline-list > li[data-id]")];
    for (const entry of fresh) entry.classList.add("fresh");
    this.list.prepend(...fresh);
    this.syncChips(next);
  }

  // Updates counts and adds new kinds; existing chips keep the keyboard's focus.
  syncChips(next) {
    for (const chip of next.querySelectorAll("#kinds [data-kind]")) {
      const known = this.kinds.querySelector(`[data-kind="${CSS.escape(chip.dataset.kind)}"]`);
      if (!known) this.kinds.append(chip);
      else known.querySelector("[data-count]").textContent = chip.querySelector("[data-count]").textContent;
    }
  }
}
