// From numbers 0-255 to colours, and from blocks to the canvas.
const hex = (text) => [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));
const isColour = (text) => /^#[0-9a-f]{6}$/i.test(text);
const blend = (a, b, share) => a.map((x, k) => x + (b[k] - x) * share);

function look() {
  const paper = hex(PAGE_COLOURS[dark ? "dark" : "light"]);
  return { paper, ink: dark ? [245, 246, 250] : [20, 24, 33], rest: dark ? [92, 101, 118] : [196, 202, 212],
    up: hex(UP), down: hex(DOWN) };
}

// The colour of one block for each way to colour; `half` 0 is its upper, 1 its lower half. `fit` says from where to
// where the shares of the blocks shown reach: blocks of many weights differ little, so their colours are stretched.
const WAYS = {
  direction(c, at, half, ink, fit) {
    const turn = (c.direction[at] - 128) / 127 / fit.turn, clash = (c.clash[at] / 255 - fit.low) / (fit.high - fit.low);
    const agreed = blend(ink.rest, turn > 0 ? ink.up : ink.down, Math.min(Math.abs(turn), 1));
    return blend(ink.paper, blend(agreed, ink.ink, clamp(clash, 0, 1)), c.strength[at] ? 0.12 + 0.88 * (c.strength[at] / 255) : 0);
  },
  chance(c, at, half, ink, fit) {
    if (!c.excess[at]) return ink.paper;
    const above = clamp((c.excess[at] - 128) / fit.chance, -1, 1);
    return blend(dark ? [58, 65, 80] : [238, 240, 244], above > 0 ? ink.up : ink.down, Math.abs(above));
  },
  tasks(c, at, half, ink) {
    const who = half ? c.task_down[at] : c.task_up[at], size = half ? c.strength_down[at] : c.strength_up[at];
    if (who === NOBODY) return ink.paper;
    const colour = current.colours[who];
    return blend(ink.paper, isColour(colour) ? hex(colour) : ink.rest, size ? 0.12 + 0.88 * (size / 255) : 0);
  },
};

// Two pixels per block, one above the other, so that a block can show who wants up over who wants down.
function paintImage(tiles) {
  const [rows, cols] = tiles.shape, c = tiles.channels, ink = look();
  tiles.picture = document.createElement("canvas");
  tiles.picture.width = Math.max(cols, 1);
  tiles.picture.height = Math.max(2 * rows, 1);
  if (!rows || !cols) return;
  const image = new ImageData(cols, 2 * rows), way = WAYS[part.colour.value];
  tiles.fit = fitOf(tiles);
  for (let row = 0; row < rows; row += 1) {
    for (let col = 0; col < cols; col += 1) {
      const at = row * cols + col, empty = !c.n[at];
      for (let half = 0; half < 2; half += 1) {
        const to = 4 * ((2 * row + half) * cols + col);
        const [r, g, b] = way(c, at, half, ink, tiles.fit);
        image.data[to] = r, image.data[to + 1] = g, image.data[to + 2] = b, image.data[to + 3] = empty ? 0 : 255;
      }
    }
  }
  tiles.picture.getContext("2d").putImageData(image, 0, 0);
}

// Single weights use the whole range of colours; blocks use it for what most of them lie within.
function fitOf(tiles) {
  const c = tiles.channels, some = [...c.strength.keys()].filter((at) => c.strength[at]);
  const nth = (values, share) => values.sort((a, b) => a - b)[Math.round(share * (values.length - 1))] || 0;
  const chance = Math.max(nth(Array.from(c.excess).filter(Boolean).map((x) => Math.abs(x - 128)), 0.98), 1);
  if (tiles.block[0] * tiles.block[1] === 1) return { turn: 1, low: 0, high: 1, chance };
  const clash = some.map((at) => c.clash[at] / 255), low = nth(clash, 0.02);
  const turn = nth(some.map((at) => Math.abs(c.direction[at] - 128) / 127), 0.98);
  return { turn: Math.max(turn, 1 / 127), low, high: Math.max(nth(clash, 0.98), low + 1 / 255), chance };
}

function repaint() {
  if (!current) return;
  paintImage(current);
  if (overview && overview !== current) paintImage(overview);
  legend();
  redraw();
}

function redraw() {
  cancelAnimationFrame(frame);
  frame = requestAnimationFrame(draw);
}

function canvasHeight(width) {
  const shape = whole.height / Math.max(whole.width, 1);
  return Math.round(clamp(width * shape, Math.min(240, width * 0.75), Math.min(520, width)));
}

function draw() {
  const width = part.stage.clientWidth;
  if (!view || !width) return; // nothing yet, or inside a hidden tab: the ResizeObserver calls again
  const height = canvasHeight(width), sharp = window.devicePixelRatio || 1;
  part.canvas.style.height = height + "px";
  if (part.canvas.width !== Math.round(width * sharp) || part.canvas.height !== Math.round(height * sharp)) {
    part.canvas.width = Math.round(width * sharp);
    part.canvas.height = Math.round(height * sharp);
  }
  part.canvas.style.touchAction = view.height < whole.height || view.width < whole.width ? "none" : "pan-y";
  const pen = part.canvas.getContext("2d");
  pen.setTransform(sharp, 0, 0, sharp, 0, 0);
  pen.fillStyle = PAGE_COLOURS[dark ? "dark" : "light"];
  pen.fillRect(0, 0, width, height);
  pen.imageSmoothingEnabled = false;
  for (const tiles of overview && overview !== current ? [overview, current] : [current]) drawTiles(pen, tiles, width, height);
  drawMarks(pen, width, height);
}

const acrossX = (col, width) => ((col - view.left) / view.width) * width;
const downY = (row, height) => ((row - view.top) / view.height) * height;

function drawTiles(pen, tiles, width, height) {
  if (!tiles.picture) return;
  const [rows, cols] = tiles.shape, [high, wide] = tiles.block;
  const x = acrossX(tiles.cols[0], width), y = downY(tiles.rows[0], height);
  pen.save();
  pen.beginPath(); // the last row and column of blocks may be cut short by the matrix
  pen.rect(x, y, acrossX(tiles.cols[1], width) - x, downY(tiles.rows[1], height) - y);
  pen.clip();
  pen.drawImage(tiles.picture, x, y, (cols * wide * width) / view.width, (rows * high * height) / view.height);
  pen.restore();
}

// The cross-hair, the chosen block, and an edge around single weights once they are large enough.
function drawMarks(pen, width, height) {
  const ink = dark ? "#ffffff" : "#111827", paper = dark ? "#0b0f19" : "#ffffff";
  const [high, wide] = current.block, cell = [(wide * width) / view.width, (high * height) / view.height];
  if (Math.min(...cell) >= 10) drawLattice(pen, width, height, paper);
  const outline = (block, lines, colour) => {
    const box = [acrossX(block.left, width), downY(block.top, height), cell[0], cell[1]];
    pen.strokeStyle = paper, pen.lineWidth = lines + 2, pen.strokeRect(...box);
    pen.strokeStyle = colour, pen.lineWidth = lines, pen.strokeRect(...box);
  };
  const block = here && blockAt(here.row, here.col);
  if (block) {
    const x = acrossX(block.left, width) + cell[0] / 2, y = downY(block.top, height) + cell[1] / 2;
    pen.globalAlpha = 0.45, pen.strokeStyle = ink, pen.lineWidth = 1;
    pen.beginPath();
    pen.moveTo(0, y), pen.lineTo(width, y), pen.moveTo(x, 0), pen.lineTo(x, height);
    pen.stroke();
    pen.globalAlpha = 1;
    outline(block, 1.5, ink);
  }
  const chosen = pinned && blockAt(pinned.row, pinned.col);
  if (chosen) outline(chosen, 2.5, dark ? "#ffd75e" : "#b4006c");
}

function drawLattice(pen, width, height, colour) {
  const [high, wide] = current.block;
  pen.strokeStyle = colour, pen.lineWidth = 1;
  pen.beginPath();
  for (let col = Math.ceil(view.left / wide) * wide; col < view.left + view.width; col += wide) {
    pen.moveTo(acrossX(col, width), 0), pen.lineTo(acrossX(col, width), height);
  }
  for (let row = Math.ceil(view.top / high) * high; row < view.top + view.height; row += high) {
    pen.moveTo(0, downY(row, height)), pen.lineTo(width, downY(row, height));
  }
  pen.stroke();
}
