// Buttons of alerts: acknowledge, mute and unmute. The live stream brings what becomes of them.
import { AlertApi } from "./api.js";
import { open } from "./dialogs.js";

const RECORDED = 1500; // ms after which an answer is recorded, if no live stream is open

export function alertActions(refresh) {
  const api = new AlertApi();
  const error = document.getElementById("alert-error");
  const dialog = document.getElementById("mute-dialog");

  function show(text) {
    error.textContent = text;
    error.hidden = !text;
  }

  async function send(button, request) {
    button.disabled = true;
    show("");
    try {
      await request();
      setTimeout(refresh, RECORDED);
    } catch (failure) {
      button.disabled = false;
      show(failure.message);
    }
  }

  function mute({ rule, run, runName }) {
    const scopes = run
      ? [[`${rule} in ${runName}`, { run, rule }], [`${rule} in every run`, { rule }], [`every rule in ${runName}`, { run }]]
      : [[rule, { rule }]];
    scopes.push(["every rule in every run", {}]);
    const options = scopes.map(([text], place) => new Option(text, place));
    const id = newId(); // sent again after an error, it is the same mute
    dialog.querySelector("[name=scope]").replaceChildren(...options);
    open(dialog, async (form) => {
      const seconds = form.get("seconds") ? { seconds: Number(form.get("seconds")) } : {};
      await api.mute({ ...scopes[form.get("scope")][1], ...seconds, note: form.get("note"), id });
      dialog.close();
      setTimeout(refresh, RECORDED);
    });
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-alert-action]");
    if (!button) return;
    const { alertAction, alert, mute: muteId } = button.dataset;
    if (alertAction === "acknowledge") send(button, () => api.acknowledge(alert));
    else if (alertAction === "unmute") send(button, () => api.unmute(muteId));
    else mute(button.dataset);
  });
}

function newId() {
  return [...crypto.getRandomValues(new Uint8Array(8))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
