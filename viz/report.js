// Draws every figure in the look the reader's system asks for, and in the light look on paper.
const dark = matchMedia("(prefers-color-scheme: dark)");
const NARROW = 520;

function dressed(layout, theme, width) {
  const template = structuredClone(TEMPLATES[theme]);
  if (width < NARROW) {
    Object.assign(template.layout.legend, { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" });
    Object.assign(template.layout, { margin: { l: 44, r: 8, t: 24, b: 44 }, minreducedwidth: 160 });
  }
  if (matchMedia("(pointer: coarse)").matches) template.layout.dragmode = false;
  return { ...structuredClone(layout), autosize: true, template };
}

async function draw(theme, width) {
  for (const [id, figure] of Object.entries(FIGURES)) {
    const host = document.getElementById(id);
    const layout = dressed(figure.layout, theme, width || host.clientWidth);
    if (width) Object.assign(layout, { autosize: false, width });
    await Plotly.react(host, structuredClone(figure.data), layout, CONFIG);
  }
  document.body.dataset.drawn = theme;
}

const screenLook = () => draw(dark.matches ? "dark" : "light");
let drawnNarrow = innerWidth < NARROW;
dark.addEventListener("change", screenLook);
addEventListener("resize", () => {
  if (innerWidth < NARROW !== drawnNarrow) screenLook();
  drawnNarrow = innerWidth < NARROW;
});
addEventListener("beforeprint", () => {
  document.querySelectorAll("details.how").forEach((box) => { box.open = true; });
  draw("light", 680);
});
addEventListener("afterprint", screenLook);
screenLook();
