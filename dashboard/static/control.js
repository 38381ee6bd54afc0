// Commands to the training: asked for by the buttons, in a dialog where there is more to say.
import { open } from "./dialogs.js";

const LONGEST_TIMER = 2 ** 31 - 1;
const MARGIN = 500; // ms after which one that expired is said to have

export class Control {
  constructor(api, refresh) {
    this.api = api;
    this.refresh = refresh;
    this.unanswered = new Map(); // what was asked for, to its id and what to do once it is known to have come
    this.sent = document.getElementById("sent");
    document.getElementById("control").addEventListener("click", (event) => this.ask(event.target.closest("[data-op]")));
    this.watch();
  }

  ask(button) {
    if (!button) return;
    const { op } = button.dataset;
    const dialog = document.getElementById(`${op}-dialog`);
    if (!dialog) return this.now(button, op);
    const entered = () => JSON.stringify([...new FormData(dialog.querySelector("form"))]);
    open(dialog, async (form) => {
      const sent = entered();
      const args = {};
      if (op === "stop") args.save = form.get("save") === "on";
      if (op === "set_lr") args.lr = Number(form.get("lr"));
      await this.send({ op, args, reason: form.get("reason") }, () => {
        if (entered() === sent) dialog.close();
        else dialog.querySelector(".said").textContent = "The one before was sent, this one is not yet.";
      });
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

  // Until an answer came, or the list has it, the same asked for again is the same command.
  async send(wanted, done = () => {}) {
    const said = JSON.stringify(wanted);
    const order = this.unanswered.get(said) ?? { id: newId() };
    this.unanswered.set(said, order);
    try {
      await this.api.command({ ...wanted, id: order.id });
    } catch (error) {
      order.done = done;
      if (!isListed(order.id)) {
        if (error.status) throw error;
        throw new Error(`No answer came (${error.message}), so it may be sent or not. Asked for again, it is applied once.`);
      }
    }
    this.came(said, done);
    this.refresh();
  }

  came(said, done) {
    this.unanswered.delete(said);
    this.say("");
    done();
  }

  // What went wrong; what went well is in the list.
  say(text) {
    this.sent.textContent = text;
    this.sent.hidden = !text;
  }

  // The list is new. A command that nobody takes expires without a word: look again when the next one has.
  watch() {
    for (const [said, { id, done }] of this.unanswered) if (done && isListed(id)) this.came(said, done);
    clearTimeout(this.timer);
    const times = [...document.querySelectorAll("#orders [data-expired]")].map((order) => Date.parse(order.dataset.expired));
    const wait = Math.min(...times) - Date.now() + MARGIN;
    if (wait < LONGEST_TIMER) this.timer = setTimeout(this.refresh, Math.max(wait, 1000));
  }
}

function isListed(id) {
  return document.getElementById(`order-${id}`) !== null;
}

// crypto.randomUUID is there on encrypted and loopback pages only.
function newId() {
  return [...crypto.getRandomValues(new Uint8Array(8))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
