// State, events and updates from Python. `state` is what the person sees; props.value is a copy of it.
const root = element.querySelector(".explorer-mixer");
let state = readValue(), rows = new Map(), master = null, chrome = null;
// While a control is moved: the values before the move, and the tasks that the move changes.
let before = null, held = new Set(), unsent = 0, unreleased = false;

function readValue() {
  const { turn, ...value } = JSON.parse(JSON.stringify(props.value || {}));
  return { low: -1, high: 2, step: 0.01, default: 0.3, label: "scale", help: "", solo: null, disabled: null,
    depth: null, no_depth: "", ...value, tasks: Array.isArray(value.tasks) ? value.tasks : [] };
}

const clamp = (value) => Math.min(state.high, Math.max(state.low, value));
const tidy = (value) => Math.round(value * 1e6) / 1e6;
const task = (name) => state.tasks.find((one) => one.name === name);
const free = () => state.tasks.filter((one) => !one.locked);
const mean = () => free().reduce((sum, one) => sum + one.value, 0) / Math.max(1, free().length);
const linked = () => free().filter((one) => one.linked);
const silent = (one) => one.muted || (state.solo !== null && state.solo !== one.name);
const sameTasks = (one, other) => one.length === other.length && one.every((row, i) => row.name === other[i].name);

function numberText(value) {
  const digits = Math.max(0, Math.min(4, (String(state.step).split(".")[1] || "").length));
  const fixed = value.toFixed(digits);
  return Math.abs(Number(fixed) - value) < 1e-9 ? fixed : value.toFixed(Math.max(digits, 3));
}

function store() {
  props.value = { ...structuredClone(state), turn: nextTurn() };
}

// At most one input event per frame, and none that is out of date after a release.
function changed() {
  unreleased = true;
  paint();
  if (!unsent) unsent = requestAnimationFrame(sendInput);
}

function sendInput() {
  unsent = 0;
  store();
  trigger('input');
}

// The end of a drag, a key press or a typed number: Python gets the last value for certain.
function released() {
  if (unsent) {
    cancelAnimationFrame(unsent);
    sendInput();
  }
  before = null;
  held = new Set();
  if (!unreleased) return;
  unreleased = false;
  store();
  trigger('release');
}

// A change made at once, such as a preset, mute or solo.
function decided() {
  unreleased = true;
  paint();
  released();
}

function begin(names) {
  if (before) return;
  before = new Map(state.tasks.map((one) => [one.name, one.value]));
  held = new Set(names);
}

// A value from Python: no event answers it, and what the person is moving stays under the finger.
function fromPython() {
  const next = readValue();
  if (JSON.stringify(next) === JSON.stringify(state)) return;
  if (!sameTasks(next.tasks, state.tasks)) {
    if (unsent) cancelAnimationFrame(unsent);
    before = null, held = new Set(), unsent = 0, unreleased = false;
    state = next;
    buildRows();
  } else {
    for (const row of next.tasks) {
      const moving = held.has(row.name) ? task(row.name) : row;
      row.value = moving.value, row.curve = moving.curve, row.own = moving.own;
    }
    const sameDepth = JSON.stringify(next.depth) === JSON.stringify(state.depth);
    state = next;
    if (!sameDepth) for (const row of rows.values()) foldAway(row);
  }
  paint();
}

// Copies the state into the page; fields in which someone is typing are left alone.
function paint() {
  const off = Boolean(state.disabled);
  root.classList.toggle("is-off", off);
  root.classList.toggle("has-no-depth", !state.depth);
  chrome.label.textContent = state.label;
  setText(chrome.help, state.help);
  setText(chrome.off, state.disabled);
  setText(chrome.empty, state.tasks.length ? "" : "No tasks yet. Load a base model and at least one fine-tune.");
  chrome.controls.hidden = !state.tasks.length;
  for (const one of state.tasks) paintRow(rows.get(one.name), one, off);
  const open = free();
  paintSlider(master, tidy(mean()), off || !open.length);
  chrome.link.setAttribute("aria-pressed", String(open.length > 0 && linked().length === open.length));
  setText(chrome.noDepth, state.tasks.length && !off ? state.no_depth : "");
  for (const button of chrome.buttons) button.disabled = off;
}

function setText(target, text) {
  target.textContent = text || "";
  target.hidden = !text;
}

function paintRow(row, one, off) {
  row.box.style.setProperty("--task", /^#[0-9a-f]{3,8}$/i.test(one.colour) ? one.colour : "var(--color-accent)");
  row.box.classList.toggle("is-silent", silent(one));
  row.box.classList.toggle("is-locked", Boolean(one.locked));
  paintSlider(row, one.value, off || Boolean(one.locked));
  const flags = { mute: one.muted, solo: state.solo === one.name, lock: one.locked, tie: one.linked };
  for (const [kind, pressed] of Object.entries(flags)) {
    row[kind].setAttribute("aria-pressed", String(Boolean(pressed)));
    row[kind].disabled = off;
  }
  row.slider.setAttribute("aria-valuetext", numberText(one.value) + (silent(one) ? ", counts as 0" : ""));
  paintCurve(row, one, off);
}

function paintSlider(row, value, off) {
  const { low, high, step } = state, part = (x) => (x - low) / (high - low);
  for (const [key, setting] of Object.entries({ min: low, max: high, step })) {
    if (row.slider[key] !== String(setting)) row.slider[key] = setting;
  }
  if (Number(row.slider.value) !== value) row.slider.value = value;
  row.slider.disabled = row.number.disabled = off;
  row.number.inputMode = low < 0 ? "text" : "decimal"; // phones' decimal keypad has no minus
  const zero = low < 0 && high > 0 ? part(0) : 0, here = part(clamp(value));
  row.track.style.setProperty("--from", Math.min(zero, here));
  row.track.style.setProperty("--to", Math.max(zero, here));
  row.track.style.setProperty("--zero", zero);
  row.track.classList.toggle("has-zero", low < 0 && high > 0);
  if (row.typing) return;
  row.number.value = numberText(value);
  complain(row, "");
}

function complain(row, text) {
  row.number.setAttribute("aria-invalid", String(Boolean(text)));
  setText(row.wrong, text);
}
