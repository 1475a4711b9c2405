// Curves over depth: what a row unfolds into. A knot multiplies the task's coefficient at its place of the network.
// A row's `curve` holds multipliers by lane (kind of module); a lane that is left out is flat.
const OWN_NOTE = "Set by tensor in the recipe, in a way no curve shows. Stays until you move the slider or draw a curve.";
const CURVE_HELP = "Each knot multiplies the slider: at × 0.5 its tensors take half of it. Drag a knot, or use up and down; " +
  "left and right go to the next one, Delete to × 1.";
const KNOT_STEP = 0.05, SVG = "http://www.w3.org/2000/svg";

const isBent = (one) => Object.keys(one.curve || {}).length > 0;
const lanesAt = (knot) => state.depth.lanes.filter((lane) => lane.has[knot]).map((lane) => lane.id);
const times = (one, lane, knot) => ((one.curve || {})[lane] || [])[knot] ?? 1;

// The multiplier that a choice of module shows at a knot: the mean of all kinds, or one; null where it has no tensor.
function multiplier(one, choice, knot) {
  const lanes = lanesAt(knot).filter((lane) => choice === "all" || lane === choice);
  return lanes.length ? lanes.reduce((sum, lane) => sum + times(one, lane, knot), 0) / lanes.length : null;
}

function bend(one, choice, values) {
  const curve = structuredClone(one.curve || {});
  state.depth.lanes.forEach((lane) => {
    if (choice !== "all" && lane.id !== choice) return;
    const made = state.depth.knots.map((_, knot) => (lane.has[knot] ? values[knot] ?? times(one, lane.id, knot) : 1));
    if (made.some((value) => value !== 1)) curve[lane.id] = made;
    else delete curve[lane.id];
  });
  one.curve = curve;
  one.own = null;
}

function svg(tag, attributes, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function foldButton(name) {
  const made = node("button", "fold", { type: "button", "aria-expanded": "false", "aria-label": `Curve over depth of ${name}` });
  made.append(svg("svg", { viewBox: "0 0 16 16", width: 18, height: 18, "aria-hidden": "true" },
    svg("polyline", { class: "spark", points: "" }), svg("path", { class: "arrow", d: "M5.5 11.5l2.5 2.5 2.5-2.5" })));
  made.addEventListener("click", () => {
    const row = rows.get(name);
    if (row.bend && !row.bend.box.hidden) row.bend.box.hidden = true;
    else if (row.bend) row.bend.box.hidden = false;
    else buildBend(row, name);
    paint();
  });
  return made;
}

function foldAway(row) {
  if (row.bend) row.bend.box.remove();
  row.bend = null;
}

// The editor of one task, made when it is first unfolded.
function buildBend(row, name) {
  const made = { choice: "all", knots: [], picks: [] };
  const box = made.box = node("div", "bend", { role: "group", "aria-label": `Curve over depth of ${name}` });
  const offered = [["all", "all"], ...state.depth.lanes.filter((lane) => lane.label).map((lane) => [lane.id, lane.label])];
  for (const [id, label] of offered) {
    const pick = pressButton("pick", label, `Curve of ${id === "all" ? "all tensors" : label}`, () => {
      made.choice = id;
      paint();
    });
    made.picks.push([id, pick]);
  }
  const act = (values) => () => bendTask(name, made.choice, values);
  const ready = state.depth.presets.map((one) => pressButton("preset", one.name, `Curve ${one.name}`, act(one.values)));
  const flat = pressButton("preset", "reset curve", "reset curve: flat for every kind of module", () => bendTask(name, "all", null));
  const copy = pressButton("preset", "to all tasks", "to all tasks: give them this curve", () => copyCurve(name));
  made.buttons = [...ready, flat, copy];
  made.lines = { all: svg("polyline", { class: "faint", points: "" }), now: svg("polyline", { class: "line", points: "" }) };
  const drawing = svg("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", "aria-hidden": "true" });
  for (const y of [0, 50, 100]) drawing.append(svg("line", { class: y === 50 ? "one" : "grid", x1: 0, x2: 100, y1: y, y2: y }));
  drawing.append(made.lines.all, made.lines.now);
  const columns = node("div", "knots");
  columns.style.setProperty("--count", state.depth.knots.length);
  state.depth.knots.forEach((knot, i) => columns.append(buildKnot(made, name, knot, i)));
  made.said = node("p", "said", { "aria-live": "off" });
  const scale = node("div", "scale", { "aria-hidden": "true" });
  scale.append(...[state.depth.high, (state.depth.high + state.depth.low) / 2, state.depth.low].map((v) =>
    node("span", "", { text: `×${v}` })));
  box.append(node("div", "picks", { role: "group", "aria-label": "Which modules" }, ...made.picks.map(([, pick]) => pick)),
    node("div", "plot", {}, scale, node("div", "paper", {}, drawing, columns)), made.said,
    node("div", "ready", { role: "group", "aria-label": "Presets of the curve" }, ...made.buttons),
    node("p", "help", { text: CURVE_HELP }));
  row.bend = made;
  row.box.append(box);
}

// One knot: an upright native slider over its column, and the short name of its place.
function buildKnot(made, name, knot, i) {
  const { low, high } = state.depth;
  const slider = node("input", "knot", { type: "range", min: low, max: high, step: 0.01, orient: "vertical",
    "aria-label": `${knot.title}, multiplier of ${name}`, "aria-orientation": "vertical" });
  const set = (value) => {
    begin([name]);
    bend(task(name), made.choice, { [i]: tidy(value) });
    made.at = i;
    changed();
  };
  slider.addEventListener("pointerdown", () => { made.at = i; begin([name]); });
  slider.addEventListener("pointerenter", () => {
    if (before) return;
    made.at = i;
    made.said.textContent = saidOf(made, task(name));
  });
  slider.addEventListener("focus", () => { made.at = i; paint(); });
  slider.addEventListener("input", () => set(Number(slider.value)));
  slider.addEventListener("dblclick", () => { set(1); released(); });
  slider.addEventListener("keydown", (event) => {
    if (!isStep(event) || slider.disabled) return;
    event.preventDefault();
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") nextKnot(made, i, event.key === "ArrowRight" ? 1 : -1);
    else set(stepped(event, multiplier(task(name), made.choice, i), { low, high, step: KNOT_STEP, normal: 1 }));
  });
  slider.addEventListener("keyup", (event) => { if (isStep(event)) released(); });
  for (const end of ["change", "pointerup", "pointercancel", "blur"]) slider.addEventListener(end, released);
  made.knots.push(slider);
  return node("div", "place", { title: knot.title }, slider, node("span", "depth", { text: knot.label, "aria-hidden": "true" }));
}

function nextKnot(made, i, way) {
  let to = i + way;
  while (made.knots[to] && made.knots[to].disabled) to += way;
  if (made.knots[to]) made.knots[to].focus();
}

function bendTask(name, choice, values) {
  const one = task(name);
  if (state.disabled || one.locked) return;
  if (values) bend(one, choice, values);
  else one.curve = {}, one.own = null;
  decided();
}

function copyCurve(name) {
  const { curve } = task(name);
  for (const one of free()) one.curve = structuredClone(curve || {}), one.own = null;
  decided();
}

// Copies curve, notes and what the knot says into the row; nodes stay.
function paintCurve(row, one, off) {
  const own = one.own !== null && one.own !== undefined && Math.abs(one.own - one.value) < 1e-9 && !isBent(one);
  row.note.hidden = !own;
  row.fold.hidden = !state.depth;
  if (!state.depth) return foldAway(row);
  const opened = Boolean(row.bend) && !row.bend.box.hidden;
  row.fold.setAttribute("aria-expanded", String(opened));
  row.fold.disabled = off;
  row.fold.title = `${opened ? "Fold" : "Unfold"} the curve over depth (${own ? "set by tensor" : isBent(one) ? "bent" : "flat"})`;
  row.fold.classList.toggle("is-bent", isBent(one));
  setPoints(row.fold.querySelector(".spark"), curvePoints(one, "all", 1, 14, 9, 2));
  if (opened) paintBend(row.bend, one, off || Boolean(one.locked));
}

function paintBend(made, one, off) {
  for (const [id, pick] of made.picks) pick.setAttribute("aria-pressed", String(id === made.choice));
  for (const button of made.buttons) button.disabled = off;
  setPoints(made.lines.all, made.choice === "all" ? "" : curvePoints(one, "all", 0, 100, 100, 0, true));
  setPoints(made.lines.now, curvePoints(one, made.choice, 0, 100, 100, 0, true));
  made.knots.forEach((slider, i) => {
    const value = multiplier(one, made.choice, i);
    slider.disabled = off || value === null;
    slider.classList.toggle("is-absent", value === null);
    if (value === null) return;
    if (Math.abs(Number(slider.value) - value) > 0.0049) slider.value = value;
    slider.setAttribute("aria-valuetext", knotText(one, value));
  });
  made.said.textContent = saidOf(made, one);
}

function knotText(one, value) {
  const wanted = one.value * value, got = clamp(wanted);
  return `× ${Number(value.toFixed(3))} = ${numberText(tidy(got))}${Math.abs(got - wanted) > 1e-6 ? ", the end of the range" : ""}`;
}

function saidOf(made, one) {
  const knot = state.depth.knots[made.at];
  if (!knot) return "Point at a knot to read it.";
  const value = multiplier(one, made.choice, made.at);
  if (value === null) return `${knot.title}: no such module here`;
  const lanes = lanesAt(made.at);
  const mixed = made.choice === "all" && lanes.some((lane) => times(one, lane, made.at) !== times(one, lanes[0], made.at));
  return `${knot.title}: ${mixed ? `× ${Number(value.toFixed(3))} on average, kinds differ` : knotText(one, value)}`;
}

// A polyline through the middle of each knot's column; knots without a tensor are passed over.
function curvePoints(one, choice, left, right, bottom, top, columns) {
  const { knots, low, high } = state.depth;
  return knots.flatMap((_, i) => {
    const value = multiplier(one, choice, i);
    if (value === null) return [];
    const share = columns ? (i + 0.5) / knots.length : knots.length > 1 ? i / (knots.length - 1) : 0.5;
    const y = bottom - ((value - low) / (high - low)) * (bottom - top);
    return [`${(left + share * (right - left)).toFixed(2)},${y.toFixed(2)}`];
  }).join(" ");
}

function setPoints(line, points) {
  if (line.getAttribute("points") !== points) line.setAttribute("points", points);
}
