// Commands to the training: asked for by the buttons, in a dialog where there is more to say.
import { open } from "./dialogs.js";

const LONGEST_TIMER = 2 ** 31 - 1;
const MARGIN = 500; // ms after which one that expired is said to have

export class Control {
  constructor(api, refresh) {
    this.api = api;
    this.refresh = refresh;
    this.sent = document.getElementById("sent");
    document.getElementById("control").addEventListener("click", (event) => this.ask(event.target.closest("[data-op]")));
    this.watch();
  }

  ask(button) {
    if (!button) return;
    const { op } = button.dataset;
    const dialog = document.getElementById(`${op}-dialog`);
    if (!dialog) return this.now(button, op);
    open(dialog, async (form) => {
      const args = {};
      if (op === "stop") args.save = form.get("save") === "on";
      if (op === "set_lr") args.lr = Number(form.get("lr"));
      await this.send({ op, args, reason: form.get("reason") });
      dialog.close();
    });
  }

  async now(button, op) {
    button.disabled = true;
    this.say("");
    try {
      await this.send({ op });
    } catch (error) {
      this.say(error.message);
    } finally {
      button.disabled = false;
    }
  }

  async send(wanted) {
    await this.api.command(wanted);
    this.say("");
    this.refresh();
  }

  // What went wrong; what went well is in the list.
  say(text) {
    this.sent.textContent = text;
    this.sent.hidden = !text;
  }

  // A command that nobody takes expires without a word: look again when the next one has.
  watch() {
    clearTimeout(this.timer);
    const times = [...document.querySelectorAll("#orders [data-expired]")].map((order) => Date.parse(order.dataset.expired));
    const wait = Math.min(...times) - Date.now() + MARGIN;
    if (wait < LONGEST_TIMER) this.timer = setTimeout(this.refresh, Math.max(wait, 1000));
  }
}
