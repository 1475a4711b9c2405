// The page's nodes: made once per set of tasks, afterwards only painted.
const ICONS = {
  lock: "M5 7V5a3 3 0 0 1 6 0v2M3.5 7h9v6.5h-9z",
  link: "M6.5 9.5l3-3M7 4.5l1.2-1.2a3 3 0 0 1 4.2 4.2L11.2 8.7M9 11.5l-1.2 1.2a3 3 0 0 1-4.2-4.2L4.8 7.3",
};

function icon(name) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  for (const [key, value] of Object.entries({ viewBox: "0 0 16 16", width: 14, height: 14, "aria-hidden": "true" })) {
    made.setAttribute(key, value);
  }
  path.setAttribute("d", ICONS[name]);
  made.append(path);
  return made;
}

function pressButton(className, text, label, act) {
  const made = node("button", className, { type: "button", title: label, "aria-label": label });
  made.append(ICONS[text] ? icon(text) : text);
  made.addEventListener("click", () => act());
  return made;
}

// Slider, number field and the sentence beside a wrong number; `move` takes the wanted value.
function sliderParts(name, label, move, reset) {
  const row = {
    slider: node("input", "slider", { type: "range", "aria-label": `${label}, slider` }),
    number: node("input", "number", { type: "text", inputmode: "text", autocomplete: "off", "aria-label": label }),
    wrong: node("span", "wrong", { role: "alert" }),
    typing: false,
  };
  row.track = node("span", "track", {}, node("span", "tick"), row.slider);
  row.reset = reset;
  listenSlider(row, name, move);
  listenNumber(row, name, move);
  row.slider.addEventListener("dblclick", reset);
  row.slider.title = "Double-click or Delete: back to the default";
  return row;
}

function buildRow(one) {
  const name = one.name, label = `${state.label} of ${name}`;
  const row = sliderParts(name, label, (value) => moveOne(name, value), () => resetOne(name));
  row.mute = pressButton("flag mute", "M", `Mute ${name}: it counts as 0`, () => flip(name, "muted"));
  row.solo = pressButton("flag solo", "S", `Solo ${name}: all others count as 0`, () => flipSolo(name));
  row.lock = pressButton("flag lock", "lock", `Lock ${name}: nothing moves it`, () => flip(name, "locked"));
  row.tie = pressButton("flag tie", "link", `Link ${name}: linked tasks move together by the same amount`, () =>
    flip(name, "linked"));
  row.name = node("span", "name", { text: name, title: `${name} (double-click: back to the default)` });
  row.name.addEventListener("dblclick", row.reset);
  const flags = node("span", "flags", {}, row.mute, row.solo, row.lock, row.tie);
  row.fold = foldButton(name);
  row.note = node("p", "note", { text: OWN_NOTE });
  row.box = node("div", "row", { role: "group", "aria-label": name }, row.fold, node("span", "chip"), row.name,
    row.track, row.number, flags, row.wrong, row.note);
  return row;
}

function buildRows() {
  rows = new Map(state.tasks.map((one) => [one.name, buildRow(one)]));
  chrome.rows.replaceChildren(...[...rows.values()].map((row) => row.box));
}

function buildMaster() {
  const title = "The mean of the unlocked tasks. Moving it moves them all in proportion, until one is at its end; " +
    "around a mean of 0, by the same amount. Double-click: back to the default";
  master = sliderParts(null, "all tasks", moveAll, () => preset(() => state.default));
  const name = node("span", "name", { text: "all tasks", title });
  name.addEventListener("dblclick", master.reset);
  chrome.link = pressButton("flag link", "link", "Link all: linked tasks move together by the same amount", linkAll);
  chrome.link.append("Link all");
  master.box = node("div", "row master", { role: "group", "aria-label": "all tasks" }, node("span", "nofold"),
    node("span", "chip"), name,
    master.track, master.number, node("span", "flags", {}, chrome.link), master.wrong);
}

function build() {
  chrome = {
    label: node("h3", "label"), help: node("p", "help"), off: node("p", "off", { role: "status" }),
    empty: node("p", "empty"), rows: node("div", "rows"), controls: node("div", "controls"),
    noDepth: node("p", "no-depth"),
  };
  buildMaster();
  const wanted = [
    ["all 0.3", "Set every unlocked task to 0.3", () => preset(() => 0.3)],
    ["1/n", "Average: one divided by the number of tasks", () => preset(() => 1 / state.tasks.length)],
    ["all 1", "Set every unlocked task to 1: plain addition", () => preset(() => 1)],
    ["reset", "Back to the defaults: no mute, no solo, no link, no curve", resetAll],
  ];
  const presets = wanted.map(([text, label, act]) => {
    const made = pressButton("preset", text, label, act);
    // The visible words must be part of the spoken name.
    made.setAttribute("aria-label", `${text}: ${label}`);
    return made;
  });
  chrome.buttons = [...presets, chrome.link];
  const bar = node("div", "bar", { role: "group", "aria-label": "Presets" }, ...presets);
  chrome.controls.append(master.box, chrome.rows, chrome.noDepth);
  const head = node("header", "head", {}, node("div", "words", {}, chrome.label, chrome.help), bar);
  root.append(head, chrome.off, chrome.empty, chrome.controls);
  buildRows();
  paint();
}

// Pointer, keys and double-clicks on one slider.
function listenSlider(row, name, move) {
  row.slider.addEventListener("pointerdown", () => begin(reach(name)));
  row.slider.addEventListener("input", () => {
    begin(reach(name));
    row.typing = false;
    move(Number(row.slider.value));
  });
  for (const end of ["change", "pointerup", "pointercancel", "blur"]) row.slider.addEventListener(end, released);
  const here = () => (name === null ? mean() : task(name).value);
  row.slider.addEventListener("keydown", (event) => stepKey(event, row, name, here(), move));
  row.slider.addEventListener("keyup", (event) => { if (isStep(event)) released(); });
}

// Typing: every allowed number counts at once; a wrong one is explained and sends nothing.
function listenNumber(row, name, move) {
  row.number.addEventListener("focus", () => row.number.select());
  row.number.addEventListener("input", () => {
    row.typing = true;
    const value = typed(row.number.value);
    complain(row, value === null ? `between ${state.low} and ${state.high}` : "");
    if (value === null) return;
    begin(reach(name));
    move(value);
  });
  const finish = () => {
    if (row.number.getAttribute("aria-invalid") !== "true") row.typing = false;
    paint();
    released();
  };
  row.number.addEventListener("blur", finish);
  row.number.addEventListener("keydown", (event) => {
    if (event.key === "Enter") finish();
    else if (event.key === "Escape") {
      row.typing = false;
      paint();
      released();
    } else {
      const value = typed(row.number.value);
      if (value !== null) stepKey(event, row, name, value, move, true);
    }
  });
  row.number.addEventListener("keyup", (event) => { if (isStep(event, true)) released(); });
}

function typed(text) {
  const value = /^\s*[-+]?(\d+[.,]?\d*|[.,]\d+)\s*$/.test(text) ? Number(text.trim().replace(",", ".")) : NaN;
  return value >= state.low && value <= state.high ? value : null;
}
