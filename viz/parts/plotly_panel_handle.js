// A slider that lies on a scale inside the figure, where the layout's `meta.handle` asks for one:
//   {argument, label, low, high, step, value, axes: [x axis, y axis], ends: [x of low, x of high]}
// A native range input: it moves by mouse, finger and arrow keys, and screen readers know it.
const THUMB_PIXELS = 18, STALE_MS = 2000;
const handle = node("input", "handle", { type: "range" });
let holding = false, sent = null, sentAt = 0;
handle.hidden = true;
panel.plot.append(handle);

function wantedHandle() {
  const layout = current && current.figure && current.figure.layout;
  return (layout && layout.meta && layout.meta.handle) || null;
}

// Lays the slider over its scale; called after every drawing.
function placeHandle() {
  const wanted = wantedHandle(), layout = panel.host._fullLayout;
  const [x, y] = wanted && layout ? wanted.axes.map((name) => layout[name]) : [];
  handle.hidden = !x || !y;
  if (handle.hidden) return;
  const [from, to] = wanted.ends.map((end) => x._offset + x.c2p(end));
  Object.assign(handle, { min: wanted.low, max: wanted.high, step: wanted.step });
  Object.assign(handle.style, {
    left: from - THUMB_PIXELS / 2 + "px", width: to - from + THUMB_PIXELS + "px",
    top: y._offset - 6 + "px", height: y._length + 12 + "px",
  });
  handle.setAttribute("aria-label", wanted.label);
  // An answer to an earlier move must not pull the handle back under the hand.
  const awaited = sent !== null && wanted.value !== sent && performance.now() - sentAt < STALE_MS;
  if (holding || awaited) return;
  handle.value = wanted.value;
  sent = null;
}

handle.addEventListener("pointerdown", () => (holding = true));
for (const end of ["pointerup", "pointercancel", "blur"]) handle.addEventListener(end, () => (holding = false));
handle.addEventListener("input", () => {
  const wanted = wantedHandle(), value = Number(handle.value);
  if (!wanted || !Number.isFinite(value)) return;
  [sent, sentAt] = [value, performance.now()];
  trigger('drag', { name: current.name, argument: wanted.argument, value, turn: nextTurn() });
});
