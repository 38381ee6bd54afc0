// Editing and deleting a run. The page is loaded again from the server afterwards.

// Shows a dialog as the page has it, whatever was entered before; `submit` is given its form's data,
// and what it throws is said there.
export function open(dialog, submit) {
  const form = dialog.querySelector("form");
  const said = dialog.querySelector(".said");
  dialog.querySelector("[data-close]").onclick = () => dialog.close();
  form.onsubmit = async (event) => {
    event.preventDefault();
    const button = form.querySelector('[type="submit"]');
    button.disabled = true;
    said.textContent = "";
    try {
      await submit(new FormData(form));
    } catch (error) {
      said.textContent = error.message;
    } finally {
      button.disabled = false;
    }
  };
  form.reset();
  said.textContent = "";
  dialog.showModal();
}

export function dialogs(api, refresh) {
  const edit = document.getElementById("edit-dialog");
  const remove = document.getElementById("delete-dialog");
  document.getElementById("edit").addEventListener("click", () =>
    open(edit, async () => {
      const changed = {}; // alone: another may have changed the rest meanwhile
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
      location.assign("/");
    }),
  );
}

// Takes over what the edited fields are by now; what somebody is entering stays.
export function adoptFields(next) {
  for (const { name, defaultValue } of next.querySelectorAll("#edit-dialog [name]")) {
    const field = document.querySelector(`#edit-dialog [name="${name}"]`);
    const isUntouched = field.value === field.defaultValue;
    field.defaultValue = defaultValue;
    if (isUntouched) field.value = defaultValue;
  }
}
