// Saving and listing: everything here happens in the browser, nothing is sent anywhere.
const SAVERS = { CSV: saveCsv, PNG: () => saveImage("png"), SVG: () => saveImage("svg"), HTML: saveHtml };
const SAVES = {
  CSV: "Save the numbers as CSV", PNG: "Save the picture as PNG", SVG: "Save the picture as SVG",
  HTML: "Save an interactive HTML page that works offline",
};
for (const [kind, saver] of Object.entries(SAVERS)) {
  const button = node("button", "save", { type: "button", "aria-label": SAVES[kind], title: SAVES[kind], text: kind });
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      await saver();
    } catch (error) {
      console.error("PlotlyPanel:", error);
      setText(panel.note, "Could not be saved: " + error.message);
    }
    button.disabled = false;
  });
  panel.tools.append(button);
}
panel.numbersBox.addEventListener("toggle", () => panel.numbersBox.open && current && fillNumbers());
show();

function fileName() {
  return (current.name || "figure").replace(/[^\w.-]+/g, "_").slice(0, 120);
}

function saveText(text, type, ending) {
  const address = URL.createObjectURL(new Blob([text], { type: type + ";charset=utf-8" }));
  const link = node("a", "", { href: address, download: fileName() + ending });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

function saveCsv() {
  saveText(current.csv, "text/csv", ".csv");
}

// The figure as it is on the screen, zoom included, with a title and a solid background.
function forPaper() {
  const layout = structuredClone(panel.host.layout);
  const margin = { ...layout.template.layout.margin, ...layout.margin };
  margin.t = Math.max(margin.t || 0, 28) + 32;
  const title = { text: (current.title || "").replace(/</g, "&lt;"), x: 0.02, xref: "container" };
  const background = PAGE_COLOURS[dark ? "dark" : "light"];
  return { ...layout, margin, title, paper_bgcolor: background, height: layout.height + 32, uirevision: null };
}

async function saveImage(format) {
  const Plotly = await loadPlotly(), layout = forPaper();
  const width = Math.max(panel.host.clientWidth, 800);
  const figure = { data: structuredClone(current.figure.data), layout: { ...layout, width }, config };
  await Plotly.downloadImage(figure, { format, width, height: layout.height, scale: 2, filename: fileName() });
}

async function saveHtml() {
  const library = await (await fetch(plotlyAddress())).text(), layout = forPaper();
  const json = (value) => JSON.stringify(value).replace(/</g, "\\u003c");
  const escape = (text) => (text || "").replace(/&/g, "&amp;").replace(/</g, "&lt;");
  const ink = layout.template.layout.font.color;
  saveText([
    '<!doctype html><html lang="en"><head><meta charset="utf-8">',
    '<meta name="viewport" content="width=device-width, initial-scale=1">',
    `<title>${escape(current.title)}</title>`,
    `<style>body{margin:24px;background:${layout.paper_bgcolor};color:${ink};`,
    "font:15px/1.5 system-ui,sans-serif}p{max-width:80ch;white-space:pre-line}</style></head><body>",
    `<div id="figure"></div><p>${escape(current.caption)}</p>`,
    `<p>${escape(current.note)}</p><p>${escape(current.how)}</p>`,
    "<script>", library.replace(/<\/script/gi, "<\\/script"), "<\/script><script>",
    `Plotly.newPlot("figure", ${json(current.figure.data)}, ${json(layout)}, `,
    `${json({ ...config, displayModeBar: "hover" })});<\/script></body></html>`,
  ].join("\n"), "text/html", ".html");
}

// Rows of cells of a CSV text, quoted cells included.
function csvRows(text) {
  const rows = [[]];
  for (const [, quoted, bare, end] of text.matchAll(/(?:"((?:[^"]|"")*)"|([^",\n]*))(,|\n|$)/g)) {
    rows[rows.length - 1].push(quoted === undefined ? bare : quoted.replace(/""/g, '"'));
    if (end === "\n") rows.push([]);
    else if (end === "") break;
  }
  return rows.filter((row) => row.length > 1 || row[0]);
}

// The numbers as a table: for eyes that want them and for screen readers.
function fillNumbers() {
  const [names, ...rows] = csvRows(current.csv || "");
  const table = node("table", "", {}, node("caption", "", { text: `${current.title || "Figure"}: ${rows.length} rows` }));
  const sides = (rows[0] || []).map((text) => cell(text).className);
  const heads = names.map((text, i) => node("th", sides[i], { scope: "col", text }));
  table.append(node("thead", "", {}, node("tr", "", {}, ...heads)));
  const body = node("tbody");
  for (const row of rows.slice(0, NUMBERS_ROWS)) body.append(node("tr", "", {}, ...row.map(cell)));
  table.append(body);
  panel.numbers.replaceChildren(table);
  if (rows.length > NUMBERS_ROWS) {
    panel.numbers.append(node("p", "rest", { text: `The first ${NUMBERS_ROWS} of ${rows.length} rows; CSV has all.` }));
  }
}

function cell(text) {
  if (!/^-?\d+(\.\d+)?(e[-+]?\d+)?$/i.test(text)) return node("td", "", { text });
  const number = Number(text);
  return node("td", "number", { text: Number.isInteger(number) ? text : String(Number(number.toPrecision(5))) });
}
