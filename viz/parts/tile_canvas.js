// What is seen (`view`, in rows and columns of the matrix), what was drawn last, and what a person does.
// Python answers a wish for another window with finer or coarser blocks; until then the old ones are stretched.
const LEAST = 8, WAIT_MILLISECONDS = 120, STEP = 1.6;
const COLOURS = { direction: "direction and conflict", chance: "conflict above chance", tasks: "who wants up, who down" };
const part = build(element.querySelector(".explorer-tiles"));
let current = null, overview = null, view = null, whole = null, asked = 0, lastAsked = "", timer = 0;
let trail = [], settled = null, here = null, pinned = null, drag = null, frame = 0;
let dark = document.body.classList.contains("dark");

function readValue() {
  if (!props.value) return null;
  return typeof props.value === "string" ? JSON.parse(props.value) : JSON.parse(JSON.stringify(props.value));
}

// A value from Python: blocks, weights to go to, or a sentence.
function show() {
  const value = readValue();
  if (!value || value.empty) {
    current = overview = view = null;
    part.root.classList.add("is-empty");
    part.empty.textContent = (value && value.empty) || "Click a square of the sign conflict map to look inside it.";
    return;
  }
  if (!value.channels) {
    if (current && value.key === current.key) fillMarks(value.marks);
    return;
  }
  if (current && value.key === current.key && value.turn < asked) return; // answers an older wish
  const isNew = !current || value.key !== current.key;
  current = decoded(value);
  part.root.classList.remove("is-empty", "is-waiting");
  if (isNew) start();
  if (isNew && value.marks) fillMarks(value.marks);
  if (covers(current)) overview = current;
  paintImage(current);
  crumbs();
  words();
  redraw();
  part.canvas.dataset.drawn = String(Number(part.canvas.dataset.drawn || 0) + 1);
}

// Something else is shown: the whole of it, with no history.
function start() {
  const [rows, cols] = current.size;
  whole = { top: 0, left: 0, height: rows, width: cols };
  view = { ...whole };
  settled = { ...whole };
  overview = here = pinned = null;
  trail = [];
  lastAsked = spanText(view);
  fillMarks([]);
}

const covers = (tiles) => tiles.rows[0] === 0 && tiles.cols[0] === 0
  && tiles.rows[1] >= tiles.size[0] && tiles.cols[1] >= tiles.size[1];

function decoded(value) {
  const channels = {};
  for (const [name, text] of Object.entries(value.channels)) {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const count = value.shape[0] * value.shape[1];
    channels[name] = bytes.length === count ? bytes : new Float32Array(bytes.buffer);
  }
  return { ...value, channels };
}

const clamp = (x, low, high) => Math.min(Math.max(x, low), high);

// Keeps the view inside the matrix and above the smallest size.
function place(next) {
  const height = clamp(next.height, Math.min(LEAST, whole.height), whole.height);
  const width = clamp(next.width, Math.min(LEAST, whole.width), whole.width);
  view = {
    height, width,
    top: clamp(next.top, 0, whole.height - height),
    left: clamp(next.left, 0, whole.width - width),
  };
  redraw();
  part.region.textContent = regionText();
  clearTimeout(timer);
  timer = setTimeout(ask, WAIT_MILLISECONDS);
}

// Zoom by a factor (above 1: closer) about a place of the matrix.
function zoom(factor, about) {
  if (!view) return;
  const at = about || { row: view.top + view.height / 2, col: view.left + view.width / 2 };
  const height = clamp(view.height / factor, Math.min(LEAST, whole.height), whole.height);
  const width = clamp(view.width / factor, Math.min(LEAST, whole.width), whole.width);
  place({
    height, width,
    top: at.row - ((at.row - view.top) * height) / view.height,
    left: at.col - ((at.col - view.left) * width) / view.width,
  });
}

const pan = (rows, cols) => view && place({ ...view, top: view.top + rows * view.height, left: view.left + cols * view.width });

const span = (start, size) => [Math.floor(start + 1e-6), Math.max(Math.ceil(start + size - 1e-6), Math.floor(start + 1e-6) + 1)];
const spanText = (seen) => JSON.stringify([span(seen.top, seen.height), span(seen.left, seen.width)]);

// Asks Python for blocks of what is seen; the last wish wins.
function ask(order) {
  if (!view) return;
  const text = spanText(view);
  if (text === lastAsked && !order) return;
  if (!order) {
    if (settled) trail.push(settled);
    trail = trail.slice(-50);
  }
  settled = { ...view };
  lastAsked = text;
  asked = nextTurn();
  part.root.classList.add("is-waiting");
  const [rows, cols] = order ? [[0, current.size[0]], [0, current.size[1]]] : JSON.parse(text);
  trigger('look', { rows, cols, order: order || current.order, turn: asked, key: current.key });
}

function back() {
  const before = trail.pop();
  if (!before) {
    trigger('leave', {});
    return;
  }
  settled = null;
  place(before);
}

function fit() {
  if (view) place(whole);
}

// The block under a place of the matrix, among those shown now; null outside of them.
function blockAt(row, col) {
  if (!current) return null;
  const i = Math.floor((row - current.rows[0]) / current.block[0]);
  const j = Math.floor((col - current.cols[0]) / current.block[1]);
  if (row < 0 || col < 0 || row >= whole.height || col >= whole.width) return null;
  if (i < 0 || j < 0 || i >= current.shape[0] || j >= current.shape[1]) return null;
  const index = i * current.shape[1] + j;
  const top = current.rows[0] + i * current.block[0], left = current.cols[0] + j * current.block[1];
  return { i, j, index, top, left, bottom: Math.min(top + current.block[0], current.rows[1]),
    right: Math.min(left + current.block[1], current.cols[1]) };
}

const isSingle = () => current.block[0] === 1 && current.block[1] === 1;

function point(event) {
  const box = part.canvas.getBoundingClientRect();
  return { row: view.top + ((event.clientY - box.top) / box.height) * view.height,
    col: view.left + ((event.clientX - box.left) / box.width) * view.width };
}

// Remembers a block; a single weight is also told to Python.
function choose(at) {
  const block = at && blockAt(at.row, at.col);
  if (!block || !current.channels.n[block.index]) return;
  pinned = { row: block.top, col: block.left };
  here = at;
  redraw();
  words();
  if (isSingle()) trigger('weight', { row: block.top, col: block.left, turn: nextTurn() });
}

// Goes to one weight, near enough to be seen as a weight.
function goTo(row, col) {
  place({ top: row - 8, left: col - 8, height: 16, width: 16 });
  pinned = here = { row, col };
  trigger('weight', { row, col, turn: nextTurn() });
  words();
}

function onKey(event) {
  if (!view || event.ctrlKey || event.metaKey || event.altKey) return;
  const way = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  if (way && event.shiftKey) pan(way[0] / 4, way[1] / 4);
  else if (way) moveCross(way);
  else if (event.key === "+" || event.key === "=") zoom(STEP, here);
  else if (event.key === "-") zoom(1 / STEP, here);
  else if (event.key === "Enter" || event.key === " ") choose(here);
  else if (event.key === "Home" || event.key === "0") fit();
  else if (event.key === "Backspace" || event.key === "Escape") back();
  else return;
  event.preventDefault();
}

// Moves the cross-hair by a block; the view follows when it leaves.
function moveCross([down, right]) {
  const middle = { row: view.top + view.height / 2, col: view.left + view.width / 2 };
  const from = here || middle, [high, wide] = current.block;
  const inside = (x, step, size) => clamp((Math.floor(x / step) + 0.5) * step, 0, size - 0.5);
  const row = inside(from.row + (here ? down * high : 0), high, whole.height);
  const col = inside(from.col + (here ? right * wide : 0), wide, whole.width);
  here = { row, col };
  const out = row < view.top || row >= view.top + view.height || col < view.left || col >= view.left + view.width;
  if (out) place({ ...view, top: row - view.height / 2, left: col - view.width / 2 });
  redraw();
  words();
}

function onDown(event) {
  if (!view || event.button) return;
  drag = { x: event.clientX, y: event.clientY, view: { ...view }, moved: false };
  part.canvas.setPointerCapture(event.pointerId);
}

function onMove(event) {
  if (!view) return;
  if (drag) {
    const dx = event.clientX - drag.x, dy = event.clientY - drag.y;
    drag.moved = drag.moved || Math.hypot(dx, dy) > 4;
    if (!drag.moved) return;
    const box = part.canvas.getBoundingClientRect();
    place({ ...view, top: drag.view.top - (dy / box.height) * view.height, left: drag.view.left - (dx / box.width) * view.width });
    return;
  }
  here = point(event);
  redraw();
  words();
}

function onUp(event) {
  const was = drag;
  drag = null;
  if (was && !was.moved && view) choose(point(event));
}

function onWheel(event) {
  if (!view) return;
  const inwards = event.deltaY < 0;
  // At the whole matrix a turn outwards means the page.
  if (!inwards && view.height >= whole.height && view.width >= whole.width) return;
  event.preventDefault();
  zoom(Math.exp(-clamp(event.deltaY, -240, 240) / 360), point(event));
}
