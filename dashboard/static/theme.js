// A classic script in the head, so that the remembered theme is set before the first paint.
(() => {
  try {
    const theme = localStorage.getItem("lineside-theme");
    if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
  } catch {
    // Storage may be forbidden; the system's preference applies.
  }
})();
