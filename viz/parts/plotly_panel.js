// Draws the value into one lasting DOM node, so that zoom, hover and focus survive updates.
const DEFAULT_HEIGHT = 420, NARROW = 520, NUMBERS_ROWS = 200;
const panel = build(element.querySelector(".explorer-panel"));
let current = null, drawnWidth = 0, turn = 0, listening = false, config = null;

// The parts of the panel, made once.
function build(root) {
  const id = "panel-" + Math.random().toString(36).slice(2, 10);
  const view = {
    root,
    title: node("h3", "title", { id }),
    host: node("div", "host"),
    stale: node("span", "stale", { role: "status", text: "out of date – updating" }),
    empty: node("p", "empty", { role: "status" }),
    caption: node("p", "caption"),
    note: node("p", "note"),
    tools: node("div", "tools", { role: "group", "aria-label": "Save this figure" }),
    how: node("div", "how-text"),
    numbers: node("div", "numbers", { tabindex: "0", role: "region", "aria-label": "Numbers of this figure" }),
  };
  view.plot = node("div", "plot", {}, view.host, view.stale);
  view.howBox = node("details", "how", {}, node("summary", "", { text: "How to read this" }), view.how);
  view.numbersBox = node("details", "rows", {}, node("summary", "", { text: "Show numbers" }), view.numbers);
  view.more = node("div", "more", {}, view.howBox, view.numbersBox);
  view.foot = node("div", "foot", {}, node("div", "words", {}, view.caption, view.note), view.tools);
  root.setAttribute("aria-labelledby", id);
  root.append(view.title, view.plot, view.empty, view.foot, view.more);
  return view;
}

function readValue() {
  if (!props.value) return null;
  return typeof props.value === "string" ? JSON.parse(props.value) : JSON.parse(JSON.stringify(props.value));
}

// Shows the newest value from Python.
function show() {
  const value = readValue();
  if (value && value.stale && !value.figure && current && current.figure) {
    panel.root.classList.add("is-stale");
    return;
  }
  current = value;
  const filled = Boolean(value && value.figure);
  panel.root.classList.toggle("is-stale", filled && Boolean(value.stale));
  panel.root.classList.toggle("is-empty", !filled);
  turn += 1;
  setText(panel.title, value && value.title);
  if (!filled) {
    setText(panel.empty, (value && (value.empty || (value.stale && "Being computed …"))) || "Nothing to show yet.");
    return;
  }
  panel.empty.hidden = true;
  setText(panel.caption, value.caption);
  setText(panel.note, value.note);
  setText(panel.how, value.how);
  panel.howBox.hidden = !value.how;
  panel.numbersBox.hidden = panel.tools.firstChild.hidden = !value.csv;
  if (panel.numbersBox.open) fillNumbers();
  draw();
}

function setText(target, text) {
  target.textContent = text || "";
  target.hidden = !text;
}

// The figure's layout in the page's present look. The template only supplies what the figure left open.
function dressed(layout) {
  const template = structuredClone(TEMPLATES[dark ? "dark" : "light"]);
  const { width, title, ...rest } = layout || {};
  template.layout.height = DEFAULT_HEIGHT;
  if (panel.host.clientWidth < NARROW) {
    Object.assign(template.layout.legend, { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" });
    Object.assign(template.layout, { margin: { l: 44, r: 8, t: 24, b: 44 }, minreducedwidth: 160 });
  }
  // A finger that drags across the figure means to scroll the page.
  if (matchMedia("(pointer: coarse)").matches) template.layout.dragmode = false;
  return { uirevision: current.name, height: DEFAULT_HEIGHT, ...structuredClone(rest), autosize: true, template };
}

async function draw() {
  const mine = turn;
  const height = (current.figure.layout && current.figure.layout.height) || DEFAULT_HEIGHT;
  panel.host.style.height = height + "px";
  drawnWidth = 0;
  if (!panel.host.clientWidth) return; // inside a hidden tab: the ResizeObserver calls again
  try {
    const Plotly = await loadPlotly();
    if (mine !== turn || !panel.host.clientWidth) return;
    drawnWidth = panel.host.clientWidth;
    config = config || {
      responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "", scrollZoom: false,
      displayModeBar: drawnWidth < NARROW ? false : "hover",
      modeBarButtonsToRemove: ["toImage", "lasso2d", "select2d", "autoScale2d", "hoverClosestCartesian",
        "hoverCompareCartesian", "toggleSpikelines"],
    };
    await Plotly.react(panel.host, structuredClone(current.figure.data), dressed(current.figure.layout), config);
    if (!listening) {
      panel.host.on("plotly_click", picked);
      panel.host.on("plotly_afterplot", placeMarks);
    }
    listening = true;
    placeMarks();
    panel.host.dataset.drawn = String(Number(panel.host.dataset.drawn || 0) + 1);
  } catch (error) {
    console.error("PlotlyPanel:", error);
    panel.root.classList.add("is-empty");
    setText(panel.empty, "This figure could not be drawn: " + error.message);
  }
}

// What lies on the figure and is not plotly's: the slider and the cursor.
function placeMarks() {
  placeHandle();
  placeCursor();
}

// Tells Python which marks were clicked.
function picked(event) {
  const points = event.points.map((point) => ({
    x: plain(point.x), y: plain(point.y), z: plain(point.z), customdata: plain(point.customdata),
    curveNumber: point.curveNumber, pointNumber: plain(point.pointNumber),
  }));
  trigger('pick', { name: current.name, points });
}

function plain(value) {
  if (value === undefined || value === null) return null;
  if (ArrayBuffer.isView(value) || Array.isArray(value)) return Array.from(value, plain);
  return value;
}

function plotlyAddress() {
  const settings = window.gradio_config || {};
  const path = PLOTLY_PATH.split("/").map(encodeURIComponent).join("/").replace(/%3A/g, ":");
  return (settings.root || "") + (settings.api_prefix || "/gradio_api") + "/file=" + path;
}

// Loads plotly.js once for all panels and keeps it apart from whatever else sets window.Plotly.
function loadPlotly() {
  const shared = (window.explorerParts = window.explorerParts || {});
  shared.plotly = shared.plotly || new Promise((resolve, reject) => {
    const earlier = window.Plotly, tag = document.createElement("script");
    tag.src = plotlyAddress();
    tag.onload = () => {
      const library = window.Plotly;
      if (earlier) window.Plotly = earlier;
      resolve(library);
    };
    tag.onerror = () => {
      shared.plotly = null;
      reject(new Error("plotly.js could not be loaded from this server"));
    };
    document.head.appendChild(tag);
  });
  return shared.plotly;
}

// A change of look or size redraws from the value; a node that has left the page lets go of everything.
function gone() {
  if (element.isConnected) return false;
  themeWatch.disconnect();
  sizeWatch.disconnect();
  if (listening) loadPlotly().then((Plotly) => Plotly.purge(panel.host));
  return true;
}

let dark = document.body.classList.contains("dark");
const themeWatch = new MutationObserver(() => {
  if (gone() || dark === document.body.classList.contains("dark")) return;
  dark = !dark;
  if (current && current.figure) draw();
});
const sizeWatch = new ResizeObserver(() => requestAnimationFrame(() => {
  const width = panel.host.clientWidth;
  if (gone() || !width || width === drawnWidth || !current || !current.figure) return;
  const crossed = (width < NARROW) !== (drawnWidth < NARROW);
  if (!drawnWidth || crossed) draw();
  else loadPlotly().then((Plotly) => Plotly.Plots.resize(panel.host)).catch(() => {});
  drawnWidth = drawnWidth && width;
}));
themeWatch.observe(document.body, { attributes: true, attributeFilter: ["class"] });
sizeWatch.observe(panel.host);
watch("value", show);
