// Puts the part's style sheet into the page, once for all parts of its kind.
if (!document.getElementById(STYLE_ID)) {
  const sheet = document.createElement("style");
  sheet.id = STYLE_ID;
  sheet.textContent = CSS;
  document.head.appendChild(sheet);
}

// A number that grows with every value any part sends: two requests may overtake each other on their way to Python.
function nextTurn() {
  const shared = (window.explorerParts = window.explorerParts || {});
  shared.turn = (shared.turn || 0) + 1;
  return shared.turn;
}

// A DOM node with a class, attributes and children; text only ever becomes text, never markup.
function node(tag, className, attributes, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined) continue;
    if (key === "text") made.textContent = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}
