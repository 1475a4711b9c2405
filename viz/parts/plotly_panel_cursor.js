// A cursor that lies on the figure, where the layout's `meta.cursor` asks for one:
//   {argument, label, points: [{x, y, value, text}], place: [x, y] or null, along: "x" or nothing}
// It is dragged from point to point, or moved with the arrow keys; letting go, Enter or Space sends where it stands.
const GRIP_PIXELS = 28, AXIS_X = "xaxis", AXIS_Y = "yaxis";
const cursor = node("div", "cursor", { role: "slider", tabindex: "0" });
const cursorWords = node("span", "cursor-words", { "aria-hidden": "true" });
let spots = [], spot = null, moved = false, awaited = null, awaitedAt = 0;
cursor.hidden = cursorWords.hidden = true;
panel.plot.append(cursor, cursorWords);

function wantedCursor() {
  const layout = current && current.figure && current.figure.layout;
  return (layout && layout.meta && layout.meta.cursor) || null;
}

// Lays the cursor where the present setting is; called after every drawing.
function placeCursor() {
  const wanted = wantedCursor(), layout = panel.host._fullLayout;
  const x = layout && layout[AXIS_X], y = layout && layout[AXIS_Y];
  cursor.hidden = !wanted || !x || !y || !wanted.points.length;
  if (cursor.hidden) return (cursorWords.hidden = true);
  const pixel = (p) => ({ left: x._offset + x.d2p(p.x), top: y._offset + y.d2p(p.y) });
  spots = wanted.points.map((p) => ({ ...p, ...pixel(p) }));
  cursor.classList.toggle("upright", wanted.along === "x");
  cursor.dataset.along = wanted.along || "";
  cursor.style.setProperty("--reach", (wanted.along === "x" ? y._length : GRIP_PIXELS) + "px");
  cursor.dataset.middle = String(y._offset + y._length / 2);
  cursor.setAttribute("aria-label", wanted.label);
  cursor.setAttribute("aria-valuemin", "1");
  cursor.setAttribute("aria-valuemax", String(spots.length));
  const waits = awaited !== null && performance.now() - awaitedAt < STALE_MS;
  if (moved || waits) return spot && showCursor(spots[spots.findIndex((s) => same(s, spot))] || spot, moved);
  awaited = null;
  const place = wanted.place && pixel({ x: wanted.place[0], y: wanted.place[1] });
  cursor.classList.toggle("unknown", !place);
  spot = nearest(place || { left: x._offset + x._length / 2, top: y._offset + y._length / 2 });
  showCursor(spot, false, place);
}

function same(a, b) {
  return String(a.value) === String(b.value);
}

function nearest(to) {
  const flat = cursor.dataset.along === "x" ? 0 : 1;
  const far = (s) => (s.left - to.left) ** 2 + flat * (s.top - to.top) ** 2;
  return spots.reduce((best, s) => (far(s) < far(best) ? s : best));
}

// Puts the cursor on a point, or on the very place of a setting between the points.
function showCursor(at, telling, exactly) {
  const on = exactly || at;
  cursor.style.left = on.left + "px";
  cursor.style.top = (cursor.dataset.along === "x" ? Number(cursor.dataset.middle) : on.top) + "px";
  cursor.setAttribute("aria-valuenow", String(spots.indexOf(at) + 1));
  const between = exactly && Math.hypot(exactly.left - at.left, exactly.top - at.top) > 3 ? "near " : "";
  cursor.setAttribute("aria-valuetext", between + at.text + (telling ? ", not set yet: press Enter" : ""));
  cursorWords.hidden = !telling;
  cursorWords.textContent = between + at.text;
  const right = on.left > panel.plot.clientWidth / 2;
  Object.assign(cursorWords.style, {
    left: right ? "" : on.left + 18 + "px", right: right ? panel.plot.clientWidth - on.left + 18 + "px" : "",
    top: Math.max(0, on.top - 34) + "px",
  });
}

function moveCursor(to) {
  if (!to) return;
  cursor.classList.remove("unknown");
  [spot, moved] = [to, true];
  showCursor(to, true);
}

function sendCursor() {
  const wanted = wantedCursor();
  if (!wanted || !spot) return;
  [awaited, awaitedAt, moved] = [spot.value, performance.now(), false];
  showCursor(spot, false);
  trigger('drag', { name: current.name, argument: wanted.argument, value: spot.value, turn: nextTurn() });
}

// The nearest point in the direction of an arrow key, within half a right angle of it; else nothing.
function towards(dx, dy) {
  const ahead = (s) => dx * (s.left - spot.left) + dy * (s.top - spot.top);
  const aside = (s) => Math.abs(dy * (s.left - spot.left)) + Math.abs(dx * (s.top - spot.top));
  const bend = cursor.dataset.along === "x" ? 0 : 1;
  const open = spots.filter((s) => ahead(s) > 0.5 && bend * aside(s) <= ahead(s) * 2);
  return open.sort((a, b) => ahead(a) + 2 * bend * aside(a) - ahead(b) - 2 * bend * aside(b))[0];
}

function spotUnder(event) {
  const box = panel.host.getBoundingClientRect();
  return nearest({ left: event.clientX - box.left, top: event.clientY - box.top });
}

cursor.addEventListener("pointerdown", (event) => {
  cursor.setPointerCapture(event.pointerId);
  cursor.focus();
  event.preventDefault();
});
cursor.addEventListener("pointermove", (event) => {
  if (!cursor.hasPointerCapture(event.pointerId)) return;
  const under = spotUnder(event);
  if (moved || !same(under, spot)) moveCursor(under);
});
cursor.addEventListener("pointerenter", () => spot && (cursorWords.hidden = false));
cursor.addEventListener("pointerleave", () => moved || (cursorWords.hidden = true));
cursor.addEventListener("pointerup", () => moved && sendCursor());
for (const end of ["pointercancel", "blur"]) {
  cursor.addEventListener(end, () => {
    if (!moved) return;
    moved = false;
    placeCursor();
  });
}
cursor.addEventListener("keydown", (event) => {
  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  if (event.key in arrows) moveCursor(towards(...arrows[event.key]));
  else if (event.key === "Enter" || event.key === " ") sendCursor();
  else if (event.key === "Escape" && moved) { moved = false; placeCursor(); }
  else return;
  event.preventDefault();
});
