// Shows a result that `fseg.drawing.page.content` gathered, and recomputes Eq. 4 to 12 of it. parts.js of probe.views.page stands before it.

const KEYS = "← → class · a A alpha · b B beta · r as computed · o O opacity · t theme · p PNG · arrows on an image: the cell";
const STEP = 0.005;
const f = Math.fround;

/** The steps of a class: what each map is, and whether it is one of cells that are in or out. */
const MAPS = {
  raw_distance: { name: "D~", text: "cosine to the class token (Eq. 3)" },
  distance: { name: "D", text: "D~ above tau (Eq. 4, 5)" },
  attention: { name: "A_v", text: "attention of the description (Eq. 6)" },
  attention_mask: { name: "M_A", text: "A_v above its mean (Eq. 7)", mask: true },
  response: { name: "D_f", text: "the response (Eq. 8)" },
  guide: { name: "m_c", text: "where this class wins (Eq. 9)", mask: true },
  prototype_mask: { name: "M_v", text: "closer to p+ than to p- (Eq. 10, 11)", mask: true },
  refined: { name: "M_r", text: "the refined mask (Eq. 12)", mask: true },
};

/** Eq. 4, in the float32 of the pipeline. */
function threshold(peak, { alpha, beta }) {
  return Math.min(f(f(alpha) * peak), f(beta));
}

/** Eq. 10 and 11 from the norms of the cells' features and their cosines, since the cosine to a mean is that to a sum. */
function nearer({ norms, cosines }, guide) {
  const cells = guide.length;
  const within = new Float64Array(cells);
  const without = new Float64Array(cells);
  for (let cell = 0; cell < cells; cell++) {
    for (let other = 0; other < cells; other++) (guide[other] ? within : without)[cell] += norms[other] * cosines[cell * cells + other];
  }
  // Each sum is the dot product with the prototype, over the cell's own norm; the prototype's squared norm is the sum over its cells.
  const squared = (sums, side) => sums.reduce((sum, value, cell) => (Boolean(guide[cell]) === side ? sum + norms[cell] * value : sum), 0);
  const [inside, outside] = [Math.sqrt(squared(within, true)), Math.sqrt(squared(without, false))];
  if (!guide.some(Boolean)) return new Uint8Array(cells);
  return Uint8Array.from(within, (value, cell) => (inside ? value / inside : 0) > (outside ? without[cell] / outside : 0));
}

/** Cosines of all pairs of cells, from the quantised half. */
function unfolded(values, [low, high], steps, cells) {
  const cosines = new Float32Array(cells * cells);
  let at = 0;
  for (let row = 0; row < cells; row++) {
    for (let col = row; col < cells; col++) {
      const value = low + (values[at++] / steps) * (high - low);
      cosines[row * cells + col] = value;
      cosines[col * cells + row] = value;
    }
  }
  return cosines;
}

/** A result: its classes, their maps as they were computed, and as they are at another alpha and beta. */
export class Outcome {
  constructor(header, arrays) {
    Object.assign(this, { header, arrays, classes: header.classes });
    const { respond, refine } = header;
    this.given = respond ?? refine;
    this.numbers = this.classes.map((_, number) => number).filter((number) => this.classes[number].maps.length);
    this.features = header.similar.map((range, number) => {
      const norms = arrays[`norms ${number}`].values;
      return { norms, cosines: unfolded(arrays[`cosines ${number}`].values, range, header.steps, norms.length) };
    });
  }

  /** A map as it was computed; undefined where there is none. */
  computed(number, kind) {
    return this.arrays[`${kind} ${number}`]?.values;
  }

  /** The largest value that a threshold can be compared with. */
  get peak() {
    const kinds = ["raw_distance", "response"];
    const maps = this.numbers.flatMap((number) => kinds.map((kind) => this.computed(number, kind))).filter(Boolean);
    return maps.reduce((peak, map) => map.reduce((most, value) => Math.max(most, value), peak), 0);
  }

  /**
   * Eq. 4 to 12 at an alpha and a beta: `background` is D_bg, `winner` M^_f, and each class has its `tau` and its maps.
   * The refine stage's own alpha or beta stays where the recipe sets it apart from the respond stage's, as `Recipe.with_` has it.
   */
  at({ alpha, beta }) {
    const { respond, refine } = this.header;
    const found = new Map(this.numbers.map((number) => [number, { ...this.responded(number, { alpha, beta }) }]));
    if (!refine || !found.size) return { classes: found };
    const tied = (name, value) => (!respond || respond[name] === refine[name] ? value : refine[name]);
    const responses = [...found.values()].map(({ response }) => response);
    const peak = responses.reduce((most, map) => map.reduce((top, value) => Math.max(top, value), most), -Infinity);
    const background = threshold(peak, { alpha: tied("alpha", alpha), beta: tied("beta", beta) });
    const winner = responses[0].map((_, cell) => {
      let [best, place] = [background, 0];
      responses.forEach((map, number) => map[cell] > best && ([best, place] = [map[cell], number + 1]));
      return place;
    });
    [...found].forEach(([number, maps], place) => Object.assign(maps, this.refined(number, winner, place + 1)));
    return { classes: found, background, winner };
  }

  /** Eq. 4, 5 and 8. */
  responded(number, values) {
    const { respond } = this.header;
    const raw = this.computed(number, "raw_distance");
    const mask = this.computed(number, "attention_mask");
    if (!respond || !raw) return { distance: this.computed(number, "distance"), response: this.computed(number, "response") };
    const tau = threshold(raw.reduce((most, value) => Math.max(most, value), -Infinity), values);
    const distance = raw.map((value) => (value > tau ? value : 0));
    const fusions = {
      D: () => distance,
      M_A: () => Float32Array.from(mask),
      "D*M_A": () => distance.map((value, cell) => value * mask[cell]),
    };
    return { tau, distance, response: fusions[respond.fusion]() };
  }

  /** Eq. 9 to 12 of one class. */
  refined(number, winner, place) {
    const { mask, fallback } = this.header.refine;
    const guide = Uint8Array.from(winner, (one) => one === place);
    const features = this.features[this.classes[number].features];
    if (!features) return { guide };
    const near = nearer(features, guide);
    const kinds = { M_v: () => near, "M^_f": () => guide, both: () => near.map((one, cell) => one & guide[cell]) };
    const refined = kinds[mask]();
    const empty = fallback && guide.some(Boolean) && !refined.some(Boolean);
    return { guide, prototype_mask: near, refined: empty ? guide : refined };
  }
}

/**
 * Show packed data in an element.
 * @param {HTMLElement} root emptied, and filled.
 * @param {string} packed see `unpack`.
 * @param {{address?: boolean}} options address: keep what is shown in the fragment of the page's address, so that it can be linked.
 */
export async function mount(root, packed, { address = false } = {}) {
  const opened = await openPacked(root, packed);
  if (opened) new ResultPage(root, new Outcome(opened.header, opened.arrays), opened.images[0], address);
}

class ResultPage {
  constructor(root, outcome, image, address) {
    Object.assign(this, { root, outcome, image, address, cell: null });
    this.colours = outcome.arrays.colours.values;
    const { given, numbers } = outcome;
    const numbered = outcome.classes.map((_, number) => number);
    this.order = numbered.sort((a, b) => outcome.classes[b].present - outcome.classes[a].present || a - b);
    Object.assign(this, { chosen: numbers[0] ?? 0, alpha: given?.alpha, beta: given?.beta, opacity: 70, theme: "" });
    if (address) this.read(location.hash.slice(1));
    this.build();
    this.show();
    if (address) addEventListener("hashchange", () => (this.read(location.hash.slice(1)), this.show()));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.show());
  }

  /** Whether alpha and beta are those that the pipeline ran with. */
  get asComputed() {
    const { given } = this.outcome;
    return !given || (this.alpha === given.alpha && this.beta === given.beta);
  }

  toString() {
    const moved = this.asComputed ? {} : { alpha: this.alpha, beta: this.beta };
    const words = { class: this.outcome.classes[this.chosen].name, ...moved, opacity: this.opacity, theme: this.theme };
    return new URLSearchParams(Object.entries(words).filter(([name, value]) => value || name !== "theme")).toString();
  }

  /** Take over what a fragment says; what it says wrongly is left as it is. */
  read(fragment) {
    const words = new URLSearchParams(fragment);
    const { classes, given } = this.outcome;
    const chosen = classes.findIndex(({ name }) => name === words.get("class"));
    if (chosen >= 0) this.chosen = chosen;
    const number = (name, most, otherwise) => {
      const value = words.get(name);
      return value !== null && value !== "" && value >= 0 && value <= most ? Number(value) : otherwise;
    };
    if (given) Object.assign(this, { alpha: number("alpha", 1, given.alpha), beta: number("beta", Infinity, given.beta) });
    this.opacity = number("opacity", 100, this.opacity);
    this.theme = ["light", "dark"].includes(words.get("theme")) ? words.get("theme") : this.theme;
  }

  build() {
    const { outcome, root } = this;
    const { header, classes, given } = outcome;
    root.replaceChildren();
    root.className = "probe";
    (this.address ? document : root).addEventListener("keydown", (event) => this.key(event));
    const cells = (values, name) => values.map((value, place) => element(name, { class: place === 1 ? "answer" : "" }, value));
    const figure = (value) => (value === null ? "" : value.toFixed(2));
    this.radios = classes.map((one, number) => {
      const swatch = element("i", { style: `background: rgb(${header.palette[number + 1]?.join(" ")})` });
      const attributes = { type: "button", role: "radio", class: one.present ? "" : "absent", onclick: () => this.set({ chosen: number }) };
      return element("button", attributes, ...(one.present ? [swatch] : []), one.name);
    });
    const rows = this.order.map((number) => {
      const one = classes[number];
      const asked = one.asked_as === one.name ? "" : `asked as ${one.asked_as}`;
      const facts = [one.answer, figure(one.margin), figure(one.score), String(one.area), [asked, ...one.flags].filter(Boolean).join(", ")];
      return element("tr", {}, ...cells([this.radios[number], ...facts], "td"));
    });
    const head = element("tr", {}, ...cells(["class", "answer", "margin", "SAM's score", "pixels", "flags"], "th"));
    const table = element("table", {}, head, ...rows);
    this.list = element("div", { class: "classes", role: "radiogroup", "aria-label": "The class that is shown" }, table);
    const slider = (name, max) =>
      element("input", { type: "range", name, min: 0, max, step: STEP, oninput: (event) => this.set({ [name]: Number(event.target.value) }) });
    this.sliders = { alpha: slider("alpha", 1), beta: slider("beta", Math.ceil(20 * Math.max(outcome.peak, given?.beta ?? 0)) / 20) };
    this.outputs = { alpha: element("output"), beta: element("output") };
    const opaque = () => this.set({ opacity: Number(this.opaque.value) });
    this.opaque = element("input", { type: "range", min: 0, max: 100, oninput: opaque });
    this.reset = element("button", { type: "button", onclick: () => this.restore() }, "As computed");
    const theme = element("button", { type: "button", onclick: () => this.turn() }, "Light or dark");
    const png = element("button", { type: "button", onclick: () => this.save() }, "PNG");
    const labelled = (text, ...inputs) => element("label", {}, text, ...inputs);
    const thresholds = ["alpha", "beta"].map((name) => labelled(name, this.sliders[name], this.outputs[name]));
    const controls = element("div", { class: "controls" }, ...(given ? [...thresholds, this.reset] : []));
    controls.append(labelled("Opacity", this.opaque), png, theme);
    this.readout = element("output", { class: "readout", "aria-live": "polite" });
    this.panels = element("div", { class: "panels" });
    root.append(
      element("h1", {}, header.title),
      element("p", { class: "family" }, header.models),
      this.list,
      controls,
      this.readout,
      this.panels,
      ...header.notes.map((note) => element("p", { class: "notes" }, note)),
      element("p", { class: "help" }, KEYS),
    );
  }

  set(changes) {
    Object.assign(this, changes);
    this.show();
  }

  restore() {
    const { alpha, beta } = this.outcome.given;
    this.set({ alpha, beta });
  }

  turn() {
    this.set({ theme: isDark(this.theme) ? "light" : "dark" });
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (event.target.matches("input") && event.key.startsWith("Arrow")) return; // a slider's own keys
    const { outcome, chosen, alpha, beta, opacity } = this;
    const choose = (step) => this.set({ chosen: this.order[clamped(this.order.indexOf(chosen) + step, this.order.length)] });
    const rounded = (value, most) => Number(Math.min(most, Math.max(0, value)).toFixed(4));
    const moved = {
      a: () => this.set({ alpha: rounded(alpha + STEP, 1) }),
      A: () => this.set({ alpha: rounded(alpha - STEP, 1) }),
      b: () => this.set({ beta: rounded(beta + STEP, Number(this.sliders.beta.max)) }),
      B: () => this.set({ beta: rounded(beta - STEP, Number(this.sliders.beta.max)) }),
      r: () => this.restore(),
    };
    const actions = {
      ...(outcome.given ? moved : {}),
      ArrowLeft: () => choose(-1),
      ArrowRight: () => choose(1),
      o: () => this.set({ opacity: Math.min(100, opacity + 5) }),
      O: () => this.set({ opacity: Math.max(0, opacity - 5) }),
      t: () => this.turn(),
      p: () => this.save(),
    };
    if (!actions[event.key]) return;
    event.preventDefault();
    actions[event.key]();
  }

  show() {
    const { outcome, chosen } = this;
    this.root.dataset.theme = isDark(this.theme) ? "dark" : "light";
    if (this.address) history.replaceState(null, "", `#${this}`);
    this.radios.forEach((radio, number) => radio.setAttribute("aria-checked", String(number === chosen)));
    const { offsetTop, offsetHeight } = this.radios[chosen].closest("tr");
    const { clientHeight, scrollTop, firstChild: table } = this.list;
    const head = table.rows[0].offsetHeight;
    this.list.scrollTop = Math.max(offsetTop + offsetHeight - clientHeight, Math.min(scrollTop, offsetTop - head));
    for (const name of outcome.given ? ["alpha", "beta"] : []) {
      this.sliders[name].value = this[name];
      this.outputs[name].value = short(this[name]);
    }
    this.opaque.value = this.opacity;
    this.reset.disabled = this.asComputed;
    this.now = outcome.given && outcome.at(this);
    this.showPanels();
    this.tell();
  }

  /** A map of a class as it is now: at the pipeline's own alpha and beta its own. */
  map(number, kind) {
    const recomputed = this.asComputed ? undefined : this.now?.classes.get(number)?.[kind];
    return recomputed ?? this.outcome.computed(number, kind);
  }

  /** M^_f as it is now: of each cell the place of the class in the list, from 1, or 0. */
  winners() {
    const { numbers } = this.outcome;
    const guides = numbers.map((number) => [number, this.map(number, "guide")]).filter(([, guide]) => guide);
    return guides.length ? guides[0][1].map((_, cell) => (guides.find(([, guide]) => guide[cell])?.[0] ?? -1) + 1) : undefined;
  }

  /** What is drawn: (key, caption, drawing), each drawing a function of a canvas. `kept` is what the sliders do not change. */
  drawings() {
    const { outcome, chosen } = this;
    const one = outcome.classes[chosen];
    const given = outcome.given && !this.asComputed ? `, at alpha ${short(outcome.given.alpha)}, beta ${short(outcome.given.beta)}` : "";
    const drawn = [{ key: "prompts", caption: `The prompts for SAM${given}`, draw: (canvas) => this.drawPrompts(canvas, one), kept: true }];
    for (const [kind, { name, text, mask }] of Object.entries(MAPS)) {
      const map = this.map(chosen, kind);
      if (!map) continue;
      const cells = mask ? `: ${map.reduce((sum, value) => sum + value, 0)} cells` : "";
      const same = !this.now?.classes.get(chosen)?.[kind] && !["raw_distance", "attention", "attention_mask"].includes(kind);
      const caption = `${name}, ${text}${cells}${same ? given : ""}`;
      drawn.push({ key: kind, caption, draw: (canvas) => this.drawMap(canvas, map, mask), range: mask ? null : rangeOf(map), kept: same });
    }
    const winners = this.winners();
    if (winners) drawn.push({ key: "winner", caption: "M^_f of all classes (Eq. 9)", draw: (canvas) => this.drawWinners(canvas, winners) });
    const sam = one.sam && { key: "sam", caption: `SAM's mask (Eq. 13)${given}`, draw: (canvas) => this.drawSam(canvas), kept: true };
    const labels = { key: "labels", caption: `The label map of all classes${given}`, draw: (canvas) => this.drawLabels(canvas), kept: true };
    return [...drawn, ...(sam ? [sam] : []), labels];
  }

  showPanels() {
    const drawings = this.drawings();
    const known = new Map([...this.panels.children].map((figure) => [figure.dataset.step, figure]));
    const figures = drawings.map(({ key }) => known.get(key) ?? this.figure(key));
    this.panels.replaceChildren(...figures);
    drawings.forEach(({ caption, draw, range, kept }, number) => {
      const [canvas, text, scale] = figures[number].children;
      text.textContent = caption;
      canvas.setAttribute("aria-label", caption);
      figures[number].className = kept && !this.asComputed ? "kept" : "";
      draw(canvas);
      scale.hidden = !range;
      if (range) scale.replaceChildren(...scaleOf(this.colours, range));
    });
  }

  figure(key) {
    const canvas = element("canvas", { tabindex: 0, role: "img" });
    const at = (cell) => {
      if (cell === this.cell) return;
      this.cell = cell;
      this.showPanels();
      this.tell();
    };
    const { grid } = this.outcome.header;
    if (grid) {
      canvas.addEventListener("pointermove", (event) => at(cellAt(grid, event)));
      canvas.addEventListener("pointerdown", (event) => at(cellAt(grid, event)));
      canvas.addEventListener("pointerleave", () => at(null));
      canvas.addEventListener("keydown", (event) => {
        const cell = cellBeside(grid, this.cell, event.key);
        if (cell === undefined) return;
        event.preventDefault();
        at(cell);
      });
    }
    return element("figure", { "data-step": key }, canvas, element("figcaption"), element("div", { class: "scale" }));
  }

  /** Fill each cell with a colour; nothing, where there is none. */
  drawCells(canvas, cells, colour) {
    const { grid } = this.outcome.header;
    const context = drawImage(canvas, this.image, { grey: true });
    context.globalAlpha = this.opacity / 100;
    cells.forEach((value, cell) => {
      const painted = colour(value);
      if (!painted) return;
      context.fillStyle = painted;
      context.fillRect(...cellBox(grid, canvas, cell));
    });
    context.globalAlpha = 1;
    if (this.cell !== null) drawFrame(context, cellBox(grid, canvas, this.cell));
  }

  colourOf(number) {
    return `rgb(${this.outcome.header.palette[number + 1]?.join(" ") ?? "128 128 128"})`;
  }

  drawMap(canvas, map, mask) {
    const range = rangeOf(map);
    const colour = mask ? (value) => value && this.colourOf(this.chosen) : (value) => cssColour(this.colours, colourOf(value, range));
    this.drawCells(canvas, map, colour);
  }

  drawWinners(canvas, winners) {
    this.drawCells(canvas, winners, (place) => place && this.colourOf(place - 1));
  }

  drawPrompts(canvas, { points, negatives, box }) {
    const context = drawImage(canvas, this.image);
    const { size } = this.outcome.header;
    const [height, width] = this.outcome.header.grid?.size ?? [size[1], size[0]];
    const [across, down] = [canvas.width / width, canvas.height / height];
    if (box) drawFrame(context, [box[0] * across, box[1] * down, (box[2] + 1 - box[0]) * across, (box[3] + 1 - box[1]) * down]);
    for (const [list, sign] of [[points, true], [negatives, false]]) {
      for (const [x, y] of list) {
        context.beginPath();
        context.arc((x + 0.5) * across, (y + 0.5) * down, canvas.width / 60 + 4, 0, 2 * Math.PI);
        Object.assign(context, { fillStyle: sign ? "white" : "black", strokeStyle: sign ? "black" : "white", lineWidth: 4 });
        context.fill();
        context.stroke();
      }
    }
  }

  /** Colour pixels of the page's image by a function of their number; undefined leaves them grey. */
  drawPixels(canvas, colour) {
    const [width, height] = this.outcome.header.size;
    const context = drawImage(canvas, this.image, { grey: true });
    const painted = new ImageData(width, height);
    for (let pixel = 0; pixel < width * height; pixel++) {
      const rgb = colour(pixel);
      if (rgb) painted.data.set([...rgb, 255], 4 * pixel);
    }
    const small = document.createElement("canvas");
    Object.assign(small, { width, height });
    small.getContext("2d").putImageData(painted, 0, 0);
    Object.assign(context, { globalAlpha: this.opacity / 100, imageSmoothingEnabled: false });
    context.drawImage(small, 0, 0, canvas.width, canvas.height);
    context.globalAlpha = 1;
  }

  drawSam(canvas) {
    const { values } = this.outcome.arrays[`sam ${this.chosen}`];
    const rgb = this.outcome.header.palette[this.chosen + 1] ?? [128, 128, 128];
    this.drawPixels(canvas, (pixel) => (values[pixel >> 3] >> (7 - (pixel & 7))) & 1 && rgb);
  }

  drawLabels(canvas) {
    const { values } = this.outcome.arrays.labels;
    const { palette } = this.outcome.header;
    this.drawPixels(canvas, (pixel) => values[pixel] && (palette[values[pixel]] ?? [128, 128, 128]));
  }

  /** Say in words what the class is, and each step at the cell under the pointer. */
  tell() {
    const { outcome, chosen, cell, now } = this;
    const one = outcome.classes[chosen];
    const facts = one.present ? `${one.name}: ${one.answer}` : `${one.name} is absent, the model says: ${one.answer}`;
    const tau = now?.classes.get(chosen)?.tau;
    const levels = [tau !== undefined && `tau ${short(tau)}`, now?.background !== undefined && `D_bg ${short(now.background)}`];
    const lines = [facts, levels.filter(Boolean).join(" · ")];
    const values = {};
    for (const [kind, { name, mask }] of Object.entries(MAPS)) {
      const map = cell === null ? undefined : this.map(chosen, kind);
      if (map) values[kind] = { name, value: map[cell], text: mask ? (map[cell] ? "yes" : "no") : short(map[cell]) };
    }
    if (cell !== null) {
      const across = outcome.header.grid.cols.length;
      const said = Object.values(values).map(({ name, text }) => `${name} ${text}`);
      lines.push(`row ${Math.floor(cell / across)}, column ${cell % across}: ${said.join(" · ")}`);
    }
    this.readout.replaceChildren(...lines.filter(Boolean).map((line) => element("div", {}, line)));
    const read = Object.fromEntries(Object.entries(values).map(([kind, { value }]) => [kind, value]));
    for (const name of Object.keys(this.readout.dataset)) delete this.readout.dataset[name];
    if (cell !== null) Object.assign(this.readout.dataset, { cell, values: JSON.stringify(read) });
  }

  save() {
    const { outcome } = this;
    const one = outcome.classes[this.chosen];
    const levels = outcome.given ? `alpha ${short(this.alpha)}, beta ${short(this.beta)}` : "";
    const panels = [...this.panels.children].map(({ children: [canvas, caption] }) => ({ canvas, text: caption.textContent }));
    const lines = [outcome.header.title, `${one.name}: ${one.answer}`, levels].filter(Boolean);
    download(sheet(this.root, lines, panels, { columns: 4, side: 420 }), "result.png");
  }
}

function rangeOf(map) {
  return map.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
}
