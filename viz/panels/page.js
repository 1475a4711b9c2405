() => {
  // Undo and redo by keyboard, unless the caret is in a text field, which has an undo of its own.
  document.addEventListener("keydown", (event) => {
    if (!(event.ctrlKey || event.metaKey) || event.altKey) return;
    const field = event.target.closest("textarea, input:not([type=range]):not([type=checkbox]), [contenteditable=true]");
    if (field) return;
    const key = event.key.toLowerCase();
    const wanted = key === "y" || (key === "z" && event.shiftKey) ? "redo" : key === "z" ? "undo" : null;
    if (!wanted) return;
    event.preventDefault();
    document.getElementById(wanted)?.click();
  });
}
