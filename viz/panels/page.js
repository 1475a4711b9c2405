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

  // A card of the overview opens the topic that holds its figure, which is not on the page before.
  const topicOf = TOPICS;
  document.addEventListener("click", (event) => {
    const link = event.target.closest(".explorer-overview a[href^='#']");
    if (!link) return;
    event.preventDefault();
    const id = link.getAttribute("href").slice(1);
    const tabs = [...document.querySelectorAll("#topics [role=tab]")];
    tabs.find((tab) => tab.textContent.trim() === topicOf[id])?.click();
    let tries = 40;
    const show = () => {
      const figure = document.getElementById(id);
      if (figure) figure.scrollIntoView({ block: "start", behavior: "smooth" });
      else if (tries-- > 0) setTimeout(show, 50);
    };
    show();
  });
}
