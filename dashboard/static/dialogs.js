// Dialogs that edit and delete a run.
import { siteRoot } from "./site.js";

// Opens `dialog` with its initial values. `submit` receives the form's data; the dialog shows the
// error that it throws.
export function open(dialog, submit) {
  const form = dialog.querySelector("form");
  const message = dialog.querySelector(".message");
  dialog.querySelector("[data-close]").onclick = () => dialog.close();
  form.onsubmit = async (event) => {
    event.preventDefault();
    const button = form.querySelector('[type="submit"]');
    button.disabled = true;
    message.textContent = "";
    try {
      await submit(new FormData(form));
    } catch (error) {
      message.textContent = error.message;
    } finally {
      button.disabled = false;
    }
  };
  form.reset();
  message.textContent = "";
  dialog.showModal();
}

export function dialogs(api, refresh) {
  const edit = document.getElementById("edit-dialog");
  const remove = document.getElementById("delete-dialog");
  document.getElementById("edit").addEventListener("click", () =>
    open(edit, async () => {
      const changed = {}; // only these: another person may have changed the rest
      for (const field of edit.querySelectorAll("[name]"))
        if (field.value !== field.defaultValue) changed[field.name] = field.value;
      if ("tags" in changed) changed.tags = changed.tags.split(",").map((tag) => tag.trim()).filter(Boolean);
      await api.change(changed);
      await refresh();
      edit.close();
    }),
  );
  document.getElementById("delete").addEventListener("click", () =>
    open(remove, async () => {
      await api.remove();
      location.assign(siteRoot);
    }),
  );
}

// Updates the fields of the edit dialog from `next`; a field that the person has changed stays.
export function syncFields(next) {
  for (const { name, defaultValue } of next.querySelectorAll("#edit-dialog [name]")) {
    const field = document.querySelector(`#edit-dialog [name="${name}"]`);
    const isUntouched = field.value === field.defaultValue;
    field.defaultValue = defaultValue;
    if (isUntouched) field.value = defaultValue;
  }
}
