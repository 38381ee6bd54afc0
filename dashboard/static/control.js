// Commands to the training: buttons, and dialogs for commands with options.
import { open } from "./dialogs.js";

const LONGEST_TIMER = 2 ** 31 - 1;
const MARGIN = 500; // ms from the expiry of a command to the refresh that shows it

export class Control {
  constructor(api, refresh) {
    this.api = api;
    this.refresh = refresh;
    this.pending = new Map(); // commands without an answer: JSON of the command to {id, done}
    this.error = document.getElementById("command-error");
    document.getElementById("control").addEventListener("click", (event) => this.onClick(event.target.closest("[data-op]")));
    this.watch();
  }

  onClick(button) {
    if (!button) return;
    const { op } = button.dataset;
    const dialog = document.getElementById(`${op}-dialog`);
    if (!dialog) return this.sendNow(button, op);
    const entered = () => JSON.stringify([...new FormData(dialog.querySelector("form"))]);
    open(dialog, async (form) => {
      const sent = entered();
      const args = {};
      if (op === "stop") args.save = form.get("save") === "on";
      if (op === "set_lr") args.lr = Number(form.get("lr"));
      await this.send({ op, args, reason: form.get("reason") }, () => {
        if (entered() === sent) dialog.close();
        else dialog.querySelector(".message").textContent = "The previous command was sent; this one was not.";
      });
    });
  }

  async sendNow(button, op) {
    button.disabled = true;
    this.showError("");
    try {
      await this.send({ op });
    } catch (error) {
      this.showError(error.message);
    } finally {
      button.disabled = false;
    }
  }

  // The same command again keeps its id until an answer comes or the list shows it.
  async send(wanted, done = () => {}) {
    const key = JSON.stringify(wanted);
    const command = this.pending.get(key) ?? { id: newId() };
    this.pending.set(key, command);
    try {
      await this.api.command({ ...wanted, id: command.id });
    } catch (error) {
      command.done = done;
      if (!isListed(command.id)) {
        if (error.status) throw error;
        throw new Error(`No answer came (${error.message}). The command may have been sent; sent again, it is applied once.`);
      }
    }
    this.acknowledge(key, done);
    this.refresh();
  }

  acknowledge(key, done) {
    this.pending.delete(key);
    this.showError("");
    done();
  }

  // Successful commands appear in the list instead.
  showError(text) {
    this.error.textContent = text;
    this.error.hidden = !text;
  }

  // Called after each refresh. A command expires without an event, so refresh when the next one does.
  watch() {
    for (const [key, { id, done }] of this.pending) if (done && isListed(id)) this.acknowledge(key, done);
    clearTimeout(this.timer);
    const times = [...document.querySelectorAll("#commands [data-expired]")].map((row) => Date.parse(row.dataset.expired));
    const wait = Math.min(...times) - Date.now() + MARGIN;
    if (wait < LONGEST_TIMER) this.timer = setTimeout(this.refresh, Math.max(wait, 1000));
  }
}

function isListed(id) {
  return document.getElementById(`command-${id}`) !== null;
}

// crypto.randomUUID exists on encrypted and loopback pages only.
function newId() {
  return [...crypto.getRandomValues(new Uint8Array(8))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
