// What each action does to the numbers. Locked tasks stay where they are.

// Tasks that moving a row changes; null is the master row.
function reach(name) {
  return name === null || linked ? free().map((one) => one.name) : [name];
}

function moveOne(name, value) {
  const shift = value - before.get(name);
  for (const one of state.tasks) {
    if (one.name === name) one.value = clamp(value);
    else if (linked && !one.locked) one.value = tidy(clamp(before.get(one.name) + shift));
  }
  changed();
}

// Scales the unlocked tasks to the wanted mean. Around a mean of zero there is no factor: then it shifts them.
function moveAll(value) {
  const names = free().map((one) => one.name);
  const old = names.reduce((sum, name) => sum + before.get(name), 0) / names.length;
  const equal = names.every((name) => before.get(name) === before.get(names[0]));
  for (const one of free()) {
    const from = before.get(one.name);
    const wanted = equal ? value : Math.abs(old) < 1e-6 ? from + value - old : (from * value) / old;
    one.value = tidy(clamp(wanted));
  }
  changed();
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
  for (const one of state.tasks) one.muted = false;
  state.solo = null;
  linked = false;
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
  // A lock changes no coefficient: it is remembered, not announced.
  paint();
  store();
}

function flipSolo(name) {
  state.solo = state.solo === name ? null : name;
  decided();
}

// Arrow keys where the browser has no step of ours: Shift moves by 0.1, and number fields step as sliders do.
function stepKey(event, row, value, move, native) {
  const way = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1 }[event.key];
  const sideways = event.key === "ArrowLeft" || event.key === "ArrowRight";
  if (!way || event.ctrlKey || event.metaKey || event.altKey) return;
  if (native ? !event.shiftKey : sideways) return;
  event.preventDefault();
  row.typing = false;
  begin(reach(row === master ? null : [...rows].find(([, one]) => one === row)[0]));
  move(tidy(clamp(value + way * (event.shiftKey ? 0.1 : state.step))));
  released();
}

build();
watch("value", fromPython);
