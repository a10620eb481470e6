// What the pages of `probe` and of `fseg` have in common: their data, their elements, their colours, cells of a grid on a canvas.

const TYPES = { uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, float32: Float32Array };

const DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;,=>?@^_`{|}~";

/** The bytes of a text in base 85: five digits are four bytes, and the last bytes have one digit more than they are. */
function decoded(text) {
  const digit = new Uint8Array(128);
  [...DIGITS].forEach((letter, value) => (digit[letter.charCodeAt(0)] = value));
  const words = Math.ceil(text.length / 5);
  const whole = text.padEnd(5 * words, "~");
  const view = new DataView(new ArrayBuffer(4 * words));
  for (let word = 0; word < words; word++) {
    let number = 0;
    for (let at = 5 * word; at < 5 * word + 5; at++) number = 85 * number + digit[whole.charCodeAt(at)];
    view.setUint32(4 * word, number);
  }
  return new Uint8Array(view.buffer, 0, Math.floor((4 * text.length) / 5));
}

/** The header and the arrays of packed data. */
export async function unpack(packed) {
  const stream = new Blob([decoded(packed.trim())]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(stream).arrayBuffer();
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const arrays = {};
  for (const [name, { dtype, shape, offset }] of Object.entries(header.arrays)) {
    const count = shape.reduce((product, size) => product * size, 1);
    arrays[name] = { shape, values: new TYPES[dtype](buffer, 4 + length + offset, count) };
  }
  return { header, arrays };
}

/** Packed data with its images, or a sentence in the element and undefined, in a browser that is too old for it. */
async function openPacked(root, packed) {
  if (typeof DecompressionStream === "undefined") {
    root.textContent = "This browser cannot open the page's data: it has no DecompressionStream. Browsers since 2023 have it.";
    return undefined;
  }
  const { header, arrays } = await unpack(packed);
  const images = await Promise.all(
    Object.keys(arrays)
      .filter((name) => name.startsWith("image "))
      .map((name) => createImageBitmap(new Blob([arrays[name].values], { type: "image/jpeg" }))),
  );
  return { header, arrays, images };
}

/** An element with attributes, listeners (`onclick`) and children; text is text. */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

function options(names, onchange) {
  return element("select", { onchange }, ...Object.entries(names).map(([value, text]) => element("option", { value }, text)));
}

/** A number as text: 0.0832, 1.32e-6. */
function short(number) {
  if (!Number.isFinite(number)) return "∞";
  return number !== 0 && Math.abs(number) < 0.001 ? number.toExponential(2) : Number(number.toPrecision(4)).toString();
}
const clamped = (number, count) => Math.min(Math.max(number, 0), count - 1);

/** Whether a theme, "light", "dark" or "" for the system's, is dark. */
function isDark(theme) {
  return theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

/** The number of a value's colour, of 256. */
function colourOf(value, [low, high]) {
  return high > low ? clamped(Math.round(((value - low) / (high - low)) * 255), 256) : 0;
}

/** A colour of 256 in CSS. */
function cssColour(colours, number) {
  const at = 3 * number;
  return `rgb(${colours[at]} ${colours[at + 1]} ${colours[at + 2]})`;
}

/** The two ends of a range of values, and the colours between them. */
function scaleOf(colours, range) {
  const stops = [0, 64, 128, 191, 255].map((number) => cssColour(colours, number)).join(", ");
  return [short(range[0]), element("i", { style: `background: linear-gradient(to right, ${stops})` }), short(range[1])];
}

/** Draw an image over the whole of a canvas; small ones larger, so that their cells have sharp edges. */
function drawImage(canvas, image, { grey = false } = {}) {
  const factor = Math.max(1, Math.round(640 / image.width));
  Object.assign(canvas, { width: image.width * factor, height: image.height * factor });
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  if (!grey) return context;
  context.globalCompositeOperation = "saturation";
  context.fillStyle = "grey";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.globalCompositeOperation = "source-over";
  return context;
}

/** The pixels (x, y, width, height) of a canvas that a cell covers. */
function cellBox(view, canvas, cell) {
  const [down, across] = [canvas.height / view.size[0], canvas.width / view.size[1]];
  const [top, bottom] = view.rows[Math.floor(cell / view.cols.length)].map((edge) => Math.round(edge * down));
  const [left, right] = view.cols[cell % view.cols.length].map((edge) => Math.round(edge * across));
  return [left, top, right - left, bottom - top];
}

/** The cell under the pointer on a canvas, or null. */
function cellAt(view, event) {
  // A canvas keeps its shape inside its element (object-fit: contain), with a border of 2 pixels.
  const canvas = event.target;
  const { left, top, width, height } = canvas.getBoundingClientRect();
  const factor = Math.min((width - 4) / canvas.width, (height - 4) / canvas.height);
  const x = (event.clientX - left - width / 2) / factor + canvas.width / 2;
  const y = (event.clientY - top - height / 2) / factor + canvas.height / 2;
  const [down, across] = [view.size[0] / canvas.height, view.size[1] / canvas.width];
  const inside = (at) => ([start, end]) => at >= start && at < end;
  const [row, col] = [view.rows.findIndex(inside(y * down)), view.cols.findIndex(inside(x * across))];
  return row < 0 || col < 0 ? null : row * view.cols.length + col;
}

/** The cell that an arrow leads to, from one or from the middle; undefined for other keys. */
function cellBeside(view, cell, key) {
  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[key];
  if (!steps) return undefined;
  const [rows, cols] = [view.rows.length, view.cols.length];
  const now = cell ?? Math.floor(rows / 2) * cols + Math.floor(cols / 2);
  return clamped(Math.floor(now / cols) + steps[0], rows) * cols + clamped((now % cols) + steps[1], cols);
}

/** A frame around a box that is seen on any ground. */
function drawFrame(context, box) {
  for (const [colour, width] of [["black", 6], ["white", 2]]) {
    Object.assign(context, { strokeStyle: colour, lineWidth: width });
    context.strokeRect(...box);
  }
}

/** Save a canvas as a PNG. */
function download(canvas, name) {
  canvas.toBlob((blob) => {
    const link = element("a", { href: URL.createObjectURL(blob), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
}

/** One image of several canvases with their captions, below lines of text; `below` is a part of a canvas under them. */
function sheet(root, lines, panels, { columns = panels.length, side = 640, below } = {}) {
  const tone = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const [line, gap] = [24, 12];
  const across = Math.max(1, Math.min(columns, panels.length));
  const tall = panels.map(({ canvas }) => Math.round((side * canvas.height) / canvas.width));
  const rows = Array.from({ length: Math.ceil(panels.length / across) }, (_, row) => Math.max(...tall.slice(row * across, (row + 1) * across)));
  const tops = rows.map((_, row) => lines.length * line + rows.slice(0, row).reduce((sum, height) => sum + height + line + gap, 0));
  const end = rows.length ? tops.at(-1) + line + rows.at(-1) + gap : lines.length * line;
  const made = document.createElement("canvas");
  made.width = Math.max(side * across + gap * across, below ? below.canvas.width : 0);
  made.height = end + (below ? below.height : 0);
  const context = made.getContext("2d");
  context.fillStyle = tone("--ground");
  context.fillRect(0, 0, made.width, made.height);
  Object.assign(context, { fillStyle: tone("--text"), font: "16px system-ui, sans-serif", textBaseline: "middle" });
  lines.forEach((text, number) => context.fillText(text, 4, line * (number + 0.5), made.width - 8));
  panels.forEach(({ canvas, text }, number) => {
    const [x, y] = [(number % across) * (side + gap), tops[Math.floor(number / across)]];
    context.fillText(text, x + 4, y + line / 2, side - 8);
    context.drawImage(canvas, x, y + line, side, tall[number]);
  });
  if (below) {
    const { canvas, from, height } = below;
    context.drawImage(canvas, 0, from, canvas.width, height, 0, end, canvas.width, height);
  }
  return made;
}
