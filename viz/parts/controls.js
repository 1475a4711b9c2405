// Draws one row per declared parameter and keeps the rows while the declarations stay the same.
const root = element.querySelector(".explorer-controls");
let drawn = "", rows = {}, busy = null;

function readValue() {
  if (!props.value) return null;
  return typeof props.value === "string" ? JSON.parse(props.value) : JSON.parse(JSON.stringify(props.value));
}

function send(event) {
  const value = readValue();
  for (const [name, row] of Object.entries(rows)) value.values[name] = row.read();
  props.value = JSON.stringify({ ...value, turn: nextTurn() });
  trigger(event, { name: value.who });
}

let frame = 0;
function sendSoon() {
  cancelAnimationFrame(frame);
  frame = requestAnimationFrame(() => send("input"));
}

function show() {
  const value = readValue();
  const shape = JSON.stringify(value && [value.who, value.specs, value.empty]);
  if (shape !== drawn) rebuild(value);
  drawn = shape;
  if (!value) return;
  for (const [name, row] of Object.entries(rows)) if (busy !== name) row.write(value.values[name]);
  fold();
}

// The settings of a switch, named switch.setting, are seen while it is on.
function fold() {
  for (const [name, row] of Object.entries(rows)) {
    const owner = rows[name.split(".")[0]];
    if (owner !== row && owner) row.box.hidden = !owner.read();
  }
}

function rebuild(value) {
  const more = root.querySelector("details");
  const wasOpen = more && more.open;
  root.replaceChildren();
  rows = {};
  busy = null;
  if (!value || !value.specs.length) {
    root.append(node("p", "nothing", { text: (value && value.empty) || "Nothing to set." }));
    return;
  }
  const advanced = node("details", "advanced", {}, node("summary", "", { text: "More settings" }));
  for (const spec of value.specs) (spec.advanced ? advanced : root).append(makeRow(spec));
  if (advanced.childElementCount > 1) root.append(advanced);
  advanced.open = Boolean(wasOpen);
}

function makeRow(spec) {
  const id = "control-" + spec.name + "-" + Math.random().toString(36).slice(2, 8);
  const label = node("label", "label", { for: id, text: spec.label });
  const help = node("p", "help", { id: id + "-help", text: spec.help + (spec.unit ? " (" + spec.unit + ")" : "") });
  const make = { slider: makeSlider, list: makeList, switch: makeSwitch, text: makeText }[spec.control];
  const [fields, read, write] = make(spec, id);
  const box = node("div", "row", { "data-name": spec.name }, label, node("div", "fields", {}, ...fields), help);
  box.classList.toggle("is-under", spec.name.includes("."));
  box.classList.toggle("is-switch", spec.control === "switch");
  rows[spec.name] = { read, write, box };
  return box;
}

function makeSlider(spec, id) {
  const bounds = { min: spec.low, max: spec.high, step: spec.step };
  const slider = node("input", "slider", { type: "range", id, "aria-describedby": id + "-help", ...bounds });
  const number = node("input", "number", { type: "number", "aria-label": spec.label, step: "any", inputmode: "decimal" });
  const wrong = node("span", "wrong", { role: "alert", hidden: "" });
  let last = spec.default;
  const text = (x) => String(Number(Number(x).toPrecision(6)));
  const accept = (x, event) => {
    last = x;
    number.removeAttribute("aria-invalid");
    wrong.hidden = true;
    event === "input" ? sendSoon() : send("release");
  };
  slider.addEventListener("input", () => { busy = spec.name; number.value = text(slider.value); accept(+slider.value, "input"); });
  slider.addEventListener("change", () => { busy = null; accept(+slider.value, "release"); });
  // A drag that ends where it began fires no change; Python's updates must be shown again all the same.
  for (const done of ["pointerup", "blur"]) slider.addEventListener(done, () => { busy = null; });
  slider.addEventListener("dblclick", () => { write(spec.default); accept(spec.default, "release"); });
  number.addEventListener("focus", () => { busy = spec.name; });
  number.addEventListener("blur", () => { busy = null; });
  number.addEventListener("change", () => {
    const x = Number(number.value);
    const whole = spec.type !== "int" || Number.isInteger(x);
    const { low, high, open_low, open_high } = spec.bounds;
    const inside = (open_low ? x > low : x >= low) && (open_high ? x < high : x <= high);
    if (number.value.trim() === "" || !Number.isFinite(x) || !inside || !whole) {
      number.setAttribute("aria-invalid", "true");
      wrong.textContent = spec.must;
      wrong.hidden = false;
      return;
    }
    slider.value = x;
    accept(x, "release");
  });
  const write = (x) => { last = Number(x); slider.value = last; number.value = text(last); wrong.hidden = true; number.removeAttribute("aria-invalid"); };
  return [[slider, number, wrong], () => last, write];
}

function makeList(spec, id) {
  const list = node("select", "list", { id, "aria-describedby": id + "-help" });
  spec.options.forEach((option, i) => list.append(node("option", "", { value: option, text: spec.labels[i] })));
  list.addEventListener("change", () => send("release"));
  return [[list], () => list.value, (x) => { list.value = x; }];
}

function makeSwitch(spec, id) {
  const box = node("input", "switch", { type: "checkbox", id, "aria-describedby": id + "-help" });
  box.addEventListener("change", () => { fold(); send("release"); });
  return [[box], () => box.checked, (x) => { box.checked = Boolean(x); }];
}

function makeText(spec, id) {
  const field = node("input", "text", { type: "text", id, "aria-describedby": id + "-help" });
  field.addEventListener("change", () => send("release"));
  return [[field], () => field.value, (x) => { field.value = x; }];
}

watch("value", show);
show();
