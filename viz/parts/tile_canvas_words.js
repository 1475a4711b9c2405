// The page around the canvas: controls, where one is, numbers of the block under the pointer, legend, files.
function build(root) {
  const id = "tiles-" + Math.random().toString(36).slice(2, 10);
  const made = {
    root, id,
    title: node("h3", "title", { id }),
    crumbs: node("nav", "crumbs", { "aria-label": "Where you are" }),
    bar: node("div", "bar", { role: "group", "aria-label": "Look closer or farther" }),
    canvas: node("canvas", "canvas", {
      tabindex: "0", role: "application", "aria-describedby": id + "-keys " + id + "-read",
      "aria-label": "The matrix. Arrow keys move the cross-hair, plus and minus zoom, Enter chooses.",
    }),
    region: node("span", "crumb here", { "aria-current": "location" }),
    read: node("div", "read", { id: id + "-read", role: "status", "aria-live": "polite" }),
    legend: node("div", "legend"),
    caption: node("p", "caption"),
    keys: node("p", "keys", { id: id + "-keys", text: "Wheel, + and − zoom; drag or Shift with arrow keys pans; arrow keys "
      + "move the cross-hair; Enter or a click chooses; 0 shows the whole; Backspace goes back." }),
    empty: node("p", "empty", { role: "status" }),
    colour: node("select", "list", {}), order: node("select", "list", {}), marks: node("select", "list", {}),
  };
  for (const [name, text] of Object.entries(COLOURS)) made.colour.append(node("option", "", { value: name, text }));
  made.stage = node("div", "stage", {}, made.canvas, node("span", "waiting", { role: "status", text: "reading …" }));
  const press = (text, label, act) => {
    const button = node("button", "press", { type: "button", "aria-label": label, title: label, text });
    button.addEventListener("click", act);
    return button;
  };
  const labelled = (text, list) => node("label", "choice", {}, node("span", "", { text }), list);
  made.bar.append(
    press("Back", "Back to what was seen before", () => back()), press("−", "Zoom out", () => zoom(1 / STEP)),
    press("+", "Zoom in", () => zoom(STEP)), press("Whole", "Show the whole matrix", () => fit()),
    press("PNG", "Save the picture as PNG", () => savePicture()), press("CSV", "Save the blocks shown as CSV", () => saveBlocks()),
  );
  made.side = node("div", "side", {}, made.read, made.legend, made.caption, made.keys);
  const choices = node("div", "choices", {}, labelled("Colour", made.colour), labelled("Order", made.order),
    labelled("Go to", made.marks));
  made.body = node("div", "body", {}, made.crumbs, made.bar, choices,
    node("div", "both", {}, made.stage, made.side));
  root.setAttribute("aria-labelledby", id);
  root.append(made.title, made.empty, made.body);
  return made;
}

part.colour.addEventListener("change", repaint);
part.order.addEventListener("change", () => ask(part.order.value));
part.marks.addEventListener("change", () => {
  const at = part.marks.value.split(" ").map(Number);
  if (part.marks.value) goTo(at[0], at[1]);
});
for (const [name, act] of Object.entries({ keydown: onKey, pointerdown: onDown, pointermove: onMove, pointerup: onUp })) {
  part.canvas.addEventListener(name, act);
}
part.canvas.addEventListener("pointercancel", () => { drag = null; });
part.canvas.addEventListener("wheel", onWheel, { passive: false });
part.canvas.addEventListener("dblclick", (event) => zoom(4, point(event)));

const short = (x) => (x === 0 ? "0" : Math.abs(x) >= 1e5 || Math.abs(x) < 1e-3 ? x.toExponential(2) : String(Number(x.toPrecision(3))));
const percent = (x) => (100 * x).toFixed(1) + " %";
const many = (x) => Math.round(x).toLocaleString("en-US");
const plural = (x, one) => `${many(x)} ${one}${Math.round(x) === 1 ? "" : "s"}`;

// Where a span of rows or columns lies, in the tensor's own numbers where those are known.
function lineText(what, start, stop, names, from, sorted) {
  if (stop - start === 1) return `${what} ${names ? names[start - from] : start}${sorted && !names ? " in this order" : ""}`;
  return `${what}s ${many(start)}–${many(stop - 1)}${sorted ? " in this order" : ""}`;
}

function whereText(block) {
  const rows = ["rows", "both"].includes(current.order), cols = ["columns", "both"].includes(current.order);
  return lineText("Row", block.top, block.bottom, current.row_names, current.rows[0], rows) + ", "
    + lineText("column", block.left, block.right, current.col_names, current.cols[0], cols);
}

function words() {
  if (!current) return;
  const at = here || pinned, block = at && blockAt(at.row, at.col), c = current.channels;
  if (!block || !c.n[block.index]) {
    part.read.replaceChildren(node("p", "", { text: block ? "No weight here: the last row ends earlier." : "Point at a block to read its numbers." }));
    return;
  }
  const k = block.index, mass = c.up[k] + c.down[k], one = c.n[k] === 1;
  const lines = [`${whereText(block)} – ${one ? "one weight" : plural(c.n[k], "weight")}`];
  if (!mass) lines.push("No task changes it.");
  else {
    lines.push(`Mass up ${short(c.up[k])}, down ${short(c.down[k])}; against the larger side of its weight: `
      + `${short(c.minority[k])}, ${percent(c.minority[k] / mass)} of all change`);
  }
  if (c.both[k] && one) lines.push(c.opposite[k] ? "The tasks disagree about its sign." : "The tasks that change it agree about its sign.");
  else if (c.both[k]) {
    lines.push(`Opposite signs: ${percent(c.opposite[k] / c.both[k])} of ${plural(c.both[k], "weight")} that two or more `
      + `tasks change; by chance ${percent(c.chance[k] / c.both[k])}`);
  } else if (mass) lines.push("No weight here is changed by two tasks: nothing to compare.");
  part.read.replaceChildren(...lines.map((text, i) => node("p", i ? "" : "where", { text })), ...strongest(k));
}

// The tasks whose net wish is strongest, by name and colour.
function strongest(k) {
  const c = current.channels, found = [];
  for (const side of ["up", "down"]) {
    const who = c["task_" + side][k];
    if (who === NOBODY) continue;
    const chip = node("span", "chip");
    if (isColour(current.colours[who])) chip.style.background = current.colours[who];
    found.push(node("span", "who", {}, chip, node("b", "", { text: current.tasks[who] }),
      ` wants ${side} most: ${short(c["net_" + side][k])}${c.n[k] === 1 ? "" : " net"}`));
  }
  return found.length ? [node("p", "wants", {}, ...found)] : [];
}

function setText(target, text) {
  target.textContent = text || "";
  target.hidden = !text;
}

function crumbs() {
  const parts = current.crumbs.map((text, i) => {
    const crumb = node("button", "crumb", { type: "button", text });
    crumb.addEventListener("click", () => (i === current.crumbs.length - 1 ? fit() : trigger('leave', {})));
    return crumb;
  });
  part.region.textContent = regionText();
  parts.push(part.region);
  part.crumbs.replaceChildren(...parts.flatMap((one, i) => (i ? [node("span", "sign", { "aria-hidden": "true", text: "›" }), one] : [one])));
  setText(part.title, current.title);
  setText(part.caption, current.caption);
  const orders = Object.entries(current.orders);
  part.order.replaceChildren(...orders.map(([value, text]) => node("option", "", { value, text })));
  part.order.value = current.order;
  part.order.parentElement.hidden = orders.length < 2;
  legend();
}

function regionText() {
  const [[top, bottom], [left, right]] = JSON.parse(spanText(view));
  const all = bottom - top >= whole.height && right - left >= whole.width;
  return all ? `whole, ${many(whole.height)} × ${many(whole.width)}`
    : `rows ${many(top)}–${many(bottom - 1)}, columns ${many(left)}–${many(right - 1)}`;
}

function fillMarks(marks) {
  part.marks.replaceChildren(node("option", "", { value: "", text: "a disputed weight …" }));
  for (const mark of marks || []) {
    part.marks.append(node("option", "", { value: `${mark.row} ${mark.col}`, text: mark.label }));
  }
  part.marks.parentElement.hidden = !(marks && marks.length);
}

function legend() {
  const [high, wide] = current.block, single = isSingle(), ink = look();
  const swatch = (colour, text) => {
    const box = node("span", "swatch");
    box.style.background = `rgb(${colour.map(Math.round).join(",")})`;
    return node("span", "entry", {}, box, text);
  };
  const size = single ? "One square is one weight." : `One block is ${many(high)} × ${many(wide)} weights.`;
  const fit = current.fit || fitOf(current), points = Math.max(1, Math.round(fit.chance / 1.27));
  const cancels = single ? "" : ` (${percent(fit.low)} of a block's mass cancels: none of this colour; ${percent(fit.high)}: full)`;
  const entries = {
    direction: [swatch(ink.up, "the tasks together want up"), swatch(ink.down, "want down"),
      swatch(ink.ink, "conflict: tasks pull the same weight both ways" + cancels),
      ...(single ? [] : [swatch(ink.rest, "agreement, but its weights go different ways")]),
      node("span", "entry", { text: "Fainter: smaller changes." })],
    chance: [swatch(ink.up, `more opposite signs than chance (full: ${points} points)`), swatch(ink.down, "fewer"),
      swatch(dark ? [58, 65, 80] : [238, 240, 244], "as chance gives"), swatch(ink.paper, "nothing to compare")],
    tasks: [...current.tasks.map((task, i) => swatch(isColour(current.colours[i]) ? hex(current.colours[i]) : ink.rest, task)),
      node("span", "entry", { text: "Upper half: who wants up most. Lower half: who wants down most. Fainter: smaller." })],
  };
  part.legend.replaceChildren(...entries[part.colour.value], node("span", "entry", { text: size }));
}

function save(blob, ending) {
  const address = URL.createObjectURL(blob), name = current.title.replace(/[^\w.-]+/g, "_").slice(0, 120) || "tiles";
  const link = node("a", "", { href: address, download: name + ending });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

// The canvas with its title, place and legend in words underneath.
function savePicture() {
  if (!current) return;
  const from = part.canvas, sharp = window.devicePixelRatio || 1, paper = node("canvas"), pen = paper.getContext("2d");
  const lines = [current.title, part.crumbs.textContent.replace(/›/g, " › "), ...[...part.legend.children].map((e) => e.textContent)];
  paper.width = from.width;
  paper.height = from.height + (lines.length * 18 + 16) * sharp;
  pen.fillStyle = PAGE_COLOURS[dark ? "dark" : "light"];
  pen.fillRect(0, 0, paper.width, paper.height);
  pen.drawImage(from, 0, 0);
  pen.fillStyle = dark ? "#f3f4f6" : "#1f2937";
  pen.font = `${12 * sharp}px sans-serif`;
  lines.forEach((text, i) => {
    const box = part.legend.children[i - 2], colour = box && box.querySelector(".swatch"), y = from.height + (18 * i + 20) * sharp;
    pen.fillText(text, (colour ? 26 : 8) * sharp, y, paper.width - 30 * sharp);
    if (!colour) return;
    const words = pen.fillStyle;
    pen.fillStyle = colour.style.background;
    pen.fillRect(8 * sharp, y - 10 * sharp, 12 * sharp, 12 * sharp);
    pen.fillStyle = words;
  });
  paper.toBlob((blob) => save(blob, ".png"), "image/png");
}

// One row per block. A name that a spreadsheet would take for a formula is made plain text.
function saveBlocks() {
  if (!current) return;
  const c = current.channels, numbers = ["n", "up", "down", "minority", "both", "opposite", "chance", "net_up", "net_down"];
  const cell = (text) => `"${(/^[=+\-@\t\r]/.test(text) ? "'" + text : text).replace(/"/g, '""')}"`;
  const rows = [["row_first", "row_last", "column_first", "column_last", ...numbers, "task_up", "task_down"].join(",")];
  for (let i = 0; i < current.shape[0]; i += 1) {
    for (let j = 0; j < current.shape[1]; j += 1) {
      const b = blockAt(current.rows[0] + i * current.block[0], current.cols[0] + j * current.block[1]), k = b.index;
      const who = ["task_up", "task_down"].map((side) => (c[side][k] === NOBODY ? "" : cell(current.tasks[c[side][k]])));
      const own = (names, from, at) => (names ? names[at - from] : at);
      rows.push([own(current.row_names, current.rows[0], b.top), own(current.row_names, current.rows[0], b.bottom - 1),
        own(current.col_names, current.cols[0], b.left), own(current.col_names, current.cols[0], b.right - 1),
        ...numbers.map((name) => Number(c[name][k].toPrecision(7))), ...who].join(","));
    }
  }
  save(new Blob([rows.join("\n") + "\n"], { type: "text/csv;charset=utf-8" }), ".csv");
}

// A change of look or size redraws; a node that has left the page lets go of everything.
function gone() {
  if (element.isConnected) return false;
  themeWatch.disconnect();
  sizeWatch.disconnect();
  clearTimeout(timer);
  return true;
}

const themeWatch = new MutationObserver(() => {
  if (gone() || dark === document.body.classList.contains("dark")) return;
  dark = !dark;
  repaint();
});
const sizeWatch = new ResizeObserver(() => gone() || redraw());
themeWatch.observe(document.body, { attributes: true, attributeFilter: ["class"] });
sizeWatch.observe(part.stage);
watch("value", show);
show();
