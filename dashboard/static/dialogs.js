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
    open(edit, async (form) => {
      const tags = form.get("tags").split(",").map((tag) => tag.trim()).filter(Boolean);
      await api.change({ name: form.get("name"), project: form.get("project"), note: form.get("note"), tags });
      for (const field of edit.querySelectorAll("[name]")) field.defaultValue = field.value;
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
