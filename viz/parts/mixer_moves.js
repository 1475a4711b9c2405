// What each action does to the numbers. Locked tasks stay where they are.

// Tasks that moving a row changes; null is the row of all tasks. A linked task takes the other linked ones along.
function reach(name) {
  if (name === null) return free().map((one) => one.name);
  return task(name).linked ? [...new Set([name, ...linked().map((one) => one.name)])] : [name];
}

// By the same amount for linked tasks; one that is at its end waits there.
function moveOne(name, value) {
  const shift = value - before.get(name);
  for (const other of reach(name)) {
    if (other !== name) task(other).value = tidy(clamp(before.get(other) + shift));
  }
  task(name).value = clamp(value);
  changed();
}

// Scales the unlocked tasks to the wanted mean, in proportion: all stop when the first is at its end. Around a mean of
// zero there is no factor, and from all zeros no proportion: then it moves them by the same amount.
function moveAll(value) {
  const from = free().map((one) => before.get(one.name));
  const old = from.reduce((sum, one) => sum + one, 0) / from.length;
  const largest = Math.max(...from.map(Math.abs));
  const shifts = Math.abs(old) <= 0.05 * largest;
  const factor = shifts ? 1 : Math.max(-room(from, -1), Math.min(room(from, 1), value / old));
  free().forEach((one, i) => { one.value = tidy(clamp(shifts ? from[i] + value - old : from[i] * factor)); });
  changed();
}

// The largest factor, times `sign`, that keeps all values in the range.
function room(values, sign) {
  const ends = values.map((one) => (one === 0 ? Infinity : (sign * one > 0 ? state.high : state.low) / (sign * one)));
  return Math.max(0, Math.min(...ends));
}

function preset(value) {
  for (const one of free()) one.value = clamp(value());
  stopTyping();
  decided();
}

function resetOne(name) {
  if (state.disabled || task(name).locked) return;
  task(name).value = clamp(state.default);
  stopTyping();
  decided();
}

function resetAll() {
  for (const one of state.tasks) {
    one.muted = one.linked = false;
    if (!one.locked) one.curve = {}, one.own = null;
  }
  state.solo = null;
  preset(() => state.default);
}

function stopTyping() {
  for (const row of [...rows.values(), master]) row.typing = false;
}

function flip(name, flag) {
  const one = task(name);
  one[flag] = !one[flag];
  if (flag === "muted") {
    decided();
    return;
  }
  // A lock or a link changes no coefficient: it is remembered, not announced.
  paint();
  store();
}

function flipSolo(name) {
  state.solo = state.solo === name ? null : name;
  decided();
}

function linkAll() {
  const all = linked().length < free().length;
  for (const one of free()) one.linked = all;
  paint();
  store();
}

const STEPS = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10 };
const IN_TEXT = ["ArrowUp", "ArrowDown", "PageUp", "PageDown"];
const ENDS = ["Home", "End", "Delete", "Backspace"];

function isStep(event, inText) {
  if (event.ctrlKey || event.metaKey || event.altKey) return false;
  return inText ? IN_TEXT.includes(event.key) : event.key in STEPS || ENDS.includes(event.key);
}

// Where a key leads from a value: a step, Shift ten, a page a tenth of the range, an end, or back to `normal`.
function stepped(event, value, range) {
  if (event.key === "Home") return range.low;
  if (event.key === "End") return range.high;
  if (event.key === "Delete" || event.key === "Backspace") return range.normal;
  const way = STEPS[event.key], page = Math.abs(way) === 10;
  const size = page ? (range.high - range.low) / 10 : range.step * (event.shiftKey ? 10 : 1);
  return Math.min(range.high, Math.max(range.low, tidy(value + Math.sign(way) * size)));
}

// A key on a slider, or up and down in a number field. A held key is one move: it ends when the key comes up.
function stepKey(event, row, name, value, move, inText) {
  if (!isStep(event, inText) || row.slider.disabled) return;
  event.preventDefault();
  row.typing = false;
  begin(reach(name));
  move(stepped(event, value, { low: state.low, high: state.high, step: state.step, normal: clamp(state.default) }));
}

build();
watch("value", fromPython);
