// The lifecycle timeline, newest first: which kinds are shown, older ones on demand, new ones as
// they come. The server draws every stop.
import { fetchDocument } from "./html.js";

export class Timeline {
  constructor(run, root) {
    this.address = `/runs/${encodeURIComponent(run)}/timeline`;
    this.route = root.querySelector("#route");
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

  stops() {
    return [...this.route.querySelectorAll("li[data-id]")];
  }

  async restart() {
    const next = await this.fetch();
    this.route.replaceChildren(...next.querySelectorAll("#route > li"));
    this.adopt(next);
    this.more.hidden = !next.querySelector("#route").dataset.more;
  }

  async older() {
    const next = await this.fetch({ before: this.stops().at(-1).dataset.id });
    this.route.append(...next.querySelectorAll("#route > li[data-id]"));
    this.more.hidden = !next.querySelector("#route").dataset.more;
  }

  async newer() {
    const newest = this.stops()[0]?.dataset.id;
    if (newest === undefined) return this.restart();
    const next = await this.fetch({ after: newest });
    const fresh = [...next.querySelectorAll("#route > li[data-id]")];
    for (const stop of fresh) stop.classList.add("fresh");
    this.route.prepend(...fresh);
    this.adopt(next);
  }

  // Counts grow and kinds come; the chips that are there stay, with the keyboard's focus.
  adopt(next) {
    for (const chip of next.querySelectorAll("#kinds [data-kind]")) {
      const known = this.kinds.querySelector(`[data-kind="${CSS.escape(chip.dataset.kind)}"]`);
      if (!known) this.kinds.append(chip);
      else known.querySelector("[data-count]").textContent = chip.querySelector("[data-count]").textContent;
    }
  }
}
