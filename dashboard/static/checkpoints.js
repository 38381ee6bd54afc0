// Buttons of checkpoints: pin, unpin, verify and delete. The live stream brings what becomes of them.
import { open } from "./dialogs.js";

const RECORDED = 1500; // ms after which a request is recorded, if no live stream is open
const CONFIRMED = {
  delete: ["Delete it from the archive?", "What training still has on its own disk stays. A deleted copy cannot be brought back.", "Delete from the archive"],
  unpin: ["Unpin it?", "The policy decides again whether the archive keeps it, and may delete it at once.", "Unpin"],
};

export function checkpointActions(api, refresh) {
  const error = document.getElementById("checkpoint-error");
  const dialog = document.getElementById("checkpoint-dialog");

  function show(text) {
    error.textContent = text;
    error.hidden = !text;
  }

  async function send(op, id) {
    await api.checkpointRequest(id, op);
    setTimeout(refresh, RECORDED);
  }

  function confirm({ checkpointOp, checkpoint, step }) {
    const [question, text, label] = CONFIRMED[checkpointOp];
    const submit = dialog.querySelector('[type="submit"]');
    dialog.querySelector("h2").textContent = `Step ${step}: ${question}`;
    dialog.querySelector("p").textContent = text;
    submit.textContent = label;
    submit.classList.toggle("danger", checkpointOp === "delete");
    submit.classList.toggle("primary", checkpointOp !== "delete");
    open(dialog, async () => {
      await send(checkpointOp, checkpoint);
      dialog.close();
    });
  }

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-checkpoint-op]");
    if (!button) return;
    const { checkpointOp, checkpoint } = button.dataset;
    show("");
    if (checkpointOp in CONFIRMED) return confirm(button.dataset);
    button.disabled = true;
    await send(checkpointOp, checkpoint).catch((failure) => {
      button.disabled = false;
      show(failure.message);
    });
  });
}
