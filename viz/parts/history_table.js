// The settings that were tried as a table: sorted, searched, named, starred, restored, pinned and deleted.
const root = element.querySelector(".explorer-history");
let current = null, sort = { by: "move", down: true }, wanted = "", onlyStarred = false, editing = null;

const COLUMNS = [["move", "No."], ["name", "Name"], ["method", "Method"], ["words", "Settings"], ["when", "Time"],
  ["mean", "Average"], ["worst", "Worst task"]];
const view = build();

function build() {
  const search = node("input", "search", { type: "search", placeholder: "Search names, methods, settings", "aria-label": "Search the settings" });
  const starred = node("button", "only", { type: "button", "aria-pressed": "false", text: "★ Starred only" });
  const count = node("span", "count", { role: "status" });
  const head = node("thead"), body = node("tbody");
  const table = node("table", "", {}, node("caption", "", { text: "Settings that were tried" }), head, body);
  const box = node("div", "scroll", { tabindex: "0", role: "region", "aria-label": "Settings that were tried" }, table);
  const empty = node("p", "empty", { role: "status" });
  search.addEventListener("input", () => { wanted = search.value; draw(); });
  starred.addEventListener("click", () => {
    onlyStarred = !onlyStarred;
    starred.setAttribute("aria-pressed", String(onlyStarred));
    draw();
  });
  root.append(node("div", "bar", {}, search, starred, count), box, empty);
  return { search, starred, count, head, body, box, empty };
}

function columns() {
  return [...COLUMNS, ...current.tasks.map((task, i) => [i, task])];
}

// The value a row is sorted by; rows without one come last whichever way it goes.
function sortKey(row) {
  const by = sort.by;
  const value = typeof by === "number" ? row.scores[by] && row.scores[by][0] : by === "name" ? row.name || null : row[by];
  return value === undefined || value === "" ? null : value;
}

function compare(a, b) {
  const [x, y] = [sortKey(a), sortKey(b)];
  if (x === null || y === null) return (x === null) - (y === null);
  const order = typeof x === "string" ? x.localeCompare(y, undefined, { numeric: true }) : x - y;
  return (sort.down ? -order : order) || b.move - a.move;
}

function draw() {
  if (!current) return;
  const parts = wanted.toLowerCase().split(/\s+/).filter(Boolean);
  const text = (row) => (row.name + " " + row.method + " " + row.words + " " + row.worst_task).toLowerCase();
  const rows = current.rows.filter((row) => (!onlyStarred || row.starred) && parts.every((part) => text(row).includes(part)));
  rows.sort(compare);
  const none = current.rows.length ? "No setting fits. Clear the search, or show all again." : current.empty;
  view.empty.textContent = rows.length ? "" : none;
  view.empty.hidden = rows.length > 0;
  view.box.hidden = !rows.length;
  const all = current.rows.length;
  view.count.textContent = all ? (rows.length === all ? all : rows.length + " of " + all) + (all === 1 ? " setting" : " settings") : "";
  // What has the focus keeps it: the row and its control are found again by their names.
  const held = document.activeElement && root.contains(document.activeElement) ? document.activeElement.dataset.at : null;
  drawHead();
  view.body.replaceChildren(...rows.map(makeRow));
  if (held) [...root.querySelectorAll("[data-at]")].find((found) => found.dataset.at === held)?.focus({ preventScroll: true });
}

function drawHead() {
  const cells = columns().map(([by, label]) => {
    const mine = sort.by === by;
    const button = node("button", "sort", { type: "button", "data-at": "sort " + by, text: label + (mine ? (sort.down ? " ↓" : " ↑") : "") });
    button.addEventListener("click", () => {
      sort = { by, down: mine ? !sort.down : !["name", "method", "words"].includes(by) };
      draw();
    });
    const number = typeof by === "number" || by === "mean" || by === "worst" || by === "move";
    return node("th", number ? "number" : "", { scope: "col", "aria-sort": mine ? (sort.down ? "descending" : "ascending") : "none" }, button);
  });
  view.head.replaceChildren(node("tr", "", {}, ...cells.slice(0, 2), node("th", "", { scope: "col", text: "Do" }), ...cells.slice(2)));
}

function percent(value) {
  return value === null || value === undefined ? "–" : (100 * value).toFixed(1) + " %";
}

function makeRow(row) {
  const title = row.name || "number " + row.move;
  const number = (value, hint) => node("td", "number", { title: hint, text: percent(value) });
  const time = new Date(1000 * row.when);
  const worst = node("td", "number", { text: percent(row.worst) }, node("small", "", { text: row.worst_task }));
  const mean = node("td", "number", {}, node("b", "", { text: percent(row.mean) }));
  if (!row.complete) mean.append(node("small", "", { text: "estimate, n = " + row.n }));
  const scores = current.tasks.map((task, i) => number(row.scores[i] && row.scores[i][0], row.scores[i] && row.scores[i][1]));
  const made = node("tr", "", { "data-id": row.id },
    node("td", "number", { text: row.move }), node("td", "name", {}, nameOf(row, title)),
    node("td", "do", {}, node("div", "buttons", {}, ...buttons(row, title))), node("td", "method", { text: row.method }),
    node("td", "words", { text: row.words }), node("td", "when", { title: time.toLocaleString(), text: shortTime(time) }),
    mean, worst, ...scores);
  made.classList.toggle("is-shown", row.shown);
  made.classList.toggle("is-pinned", row.pinned);
  made.classList.toggle("is-picked", current.picked === row.id);
  if (row.shown) made.setAttribute("aria-current", "true");
  return made;
}

function shortTime(time) {
  const today = new Date().toDateString() === time.toDateString();
  return today ? time.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }) : time.toLocaleDateString([], { month: "short", day: "numeric" });
}

// A field that is saved when it is left or Enter is pressed; Escape brings the old name back.
function nameOf(row, title) {
  const field = node("input", "", { type: "text", maxlength: MAX_NAME, placeholder: "unnamed", "aria-label": "Name of " + title, "data-at": "name " + row.id });
  field.value = editing && editing.id === row.id ? editing.text : row.name;
  field.addEventListener("input", () => { editing = { id: row.id, text: field.value }; });
  field.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { field.value = row.name; editing = null; }
    if (event.key === "Enter" || event.key === "Escape") field.blur();
  });
  field.addEventListener("blur", () => {
    if (!field.isConnected) return;
    editing = null;
    if (field.value.trim() !== row.name) { row.name = field.value.trim(); act({ do: "rename", id: row.id, name: field.value }); }
  });
  return field;
}

function buttons(row, title) {
  const make = (kind, text, label, pressed, run) => {
    const state = pressed === null ? {} : { "aria-pressed": String(pressed) };
    const button = node("button", kind, { type: "button", text, title: label, "aria-label": label + ": " + title, "data-at": kind + " " + row.id, ...state });
    button.addEventListener("click", run);
    return button;
  };
  const restore = make("restore", "Restore", "Bring this setting back", null, () => trigger('restore', { id: row.id, turn: nextTurn() }));
  restore.disabled = row.shown;
  return [
    make("star", row.starred ? "★" : "☆", row.starred ? "Take the star off" : "Star: never dropped", row.starred,
      () => act({ do: "star", id: row.id, starred: !row.starred })),
    restore,
    make("pin", row.pinned ? "Unpin A" : "Pin as A", row.pinned ? "No longer compare with this setting" : "Compare others with this setting", row.pinned,
      () => act({ do: row.pinned ? "unpin" : "pin", id: row.id })),
    make("delete", "✕", "Delete this setting", null, () => act({ do: "delete", id: row.id })),
  ];
}

function act(what) {
  trigger('act', { ...what, turn: nextTurn() });
}

function show() {
  const next = props.value ? JSON.parse(props.value) : null;
  const picked = next && next.picked && (!current || current.picked !== next.picked) ? next.picked : null;
  current = next;
  draw();
  // A line that was clicked in the figure: its row comes into view, inside the table only.
  const row = picked && [...view.body.rows].find((found) => found.dataset.id === picked);
  if (row) view.box.scrollTop = row.offsetTop - view.box.clientHeight / 2;
}

watch("value", show);
show();
