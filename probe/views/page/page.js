// Shows what `probe.views.page.packing.pack` packed, with what is in parts.js, which stands before it. `mount` is all that a page, or a
// notebook's widget, needs.

const ORDERS = { layers: "by layer", mass: "most on the image first", entropy: "least scattered first" };
const KINDS = { attention: "Attention", cosine: "Cosine" };
const SCALES = { own: "each map's own values", compared: "one range for what is compared", shared: "one range for all maps" };
const KEYS = "← → token · ↑ ↓ layer · h H head · m attention or cosine · s order · c compare · x other side · o O opacity · t theme · p PNG";
const GAP = 3;

/**
 * Show packed data in an element.
 * @param {HTMLElement} root emptied, and filled.
 * @param {string} packed see `unpack`.
 * @param {{address?: boolean}} options address: keep what is shown in the fragment of the page's address, so that it can be linked.
 */
export async function mount(root, packed, { address = false } = {}) {
  const opened = await openPacked(root, packed);
  if (!opened) return;
  const { header, arrays, images } = opened;
  const model = new Model(header, arrays);
  new Page(root, model, images, address);
}

/** What the data says: maps, their values, what is likely where. */
class Model {
  constructor(header, arrays) {
    Object.assign(this, { header, arrays, tokens: header.tokens, views: header.views });
    this.maps = header.maps;
    this.kinds = Object.keys(KINDS).filter((kind) => this.views.some((_, view) => arrays[`${kind} ${view}`]));
    const likely = header.likely;
    this.place = likely && {
      layer: new Map(likely.layers.map((layer, place) => [layer, place])),
      position: new Map(likely.positions.map((position, place) => [position, place])),
    };
  }

  /** The place of a token among the maps of a kind; -1: it has none. */
  row(kind, token) {
    return this.tokens[token]?.places[kind] ?? -1;
  }

  /** One map: its bytes, range, and for attention its mass and entropy; undefined where there is none. */
  map({ kind, token, map }, view) {
    const array = this.arrays[`${kind} ${view}`];
    const row = this.row(kind, token);
    if (!array || row < 0) return undefined;
    const [, rows, cells] = array.shape;
    const at = map * rows + row;
    return {
      bytes: array.values.subarray(at * cells, (at + 1) * cells),
      low: this.arrays[`${kind} ${view} low`].values[at],
      high: this.arrays[`${kind} ${view} high`].values[at],
      mass: kind === "attention" ? this.arrays[`mass ${view}`].values[at] : undefined,
      entropy: kind === "attention" ? this.arrays[`entropy ${view}`].values[at] : undefined,
    };
  }

  /** A cell's value, within 1/255 of its map's range. */
  value(map, cell) {
    return this.decoded(map, map.bytes[cell]);
  }

  decoded(map, byte) {
    return map.low + (byte / this.header.steps) * (map.high - map.low);
  }

  /** The smallest and the largest value of all maps of these panels' tokens; attention begins at 0. */
  range(panels, view) {
    let [low, high] = [panels[0].kind === "attention" ? 0 : Infinity, -Infinity];
    for (const panel of panels) {
      this.maps[panel.kind].forEach((_, number) => {
        const map = this.map({ ...panel, map: number }, view);
        low = Math.min(low, map.low);
        high = Math.max(high, map.high);
      });
    }
    return [low, high];
  }

  /** The layer's name and, of attention, the head's. */
  name({ kind, map }) {
    const [layer, head] = this.maps[kind][map];
    if (kind === "cosine") return `hidden state ${layer}`;
    return head === "mean" ? `block ${layer}, mean of its heads` : `block ${layer}, head ${head}`;
  }

  /** The likeliest words of the hidden state behind a map's layer at a position, as text; "" where it was not read. */
  likely({ kind, map }, position) {
    if (!this.place) return "";
    const layer = this.place.layer.get(this.maps[kind][map][0] + (kind === "attention" ? 1 : 0));
    const at = this.place.position.get(position);
    if (layer === undefined || at === undefined) return "";
    const { shape, values } = this.arrays.likely;
    const start = (layer * shape[1] + at) * shape[2];
    const shares = this.arrays["likely probabilities"].values;
    const words = Array.from({ length: shape[2] }, (_, number) => {
      const name = this.header.likely.names[values[start + number]];
      return `${JSON.stringify(name)} ${(shares[start + number] / 255).toFixed(2)}`;
    });
    return words.join(", ");
  }

  /** The maps of a kind in an order: their numbers. */
  ordered(panel, view, order) {
    const numbers = this.maps[panel.kind].map((_, number) => number);
    if (panel.kind !== "attention" || order === "layers") return numbers;
    const sign = order === "mass" ? -1 : 1;
    const of = numbers.map((map) => sign * this.map({ ...panel, map }, view)[order]);
    // Infinity - Infinity is no order.
    return numbers.sort((a, b) => (of[a] === of[b] ? a - b : of[a] < of[b] ? -1 : 1));
  }
}

/** What is chosen, as it stands in the address. */
class Choice {
  constructor(model) {
    const kind = model.kinds[0];
    const tokens = model.tokens.map((_, token) => token).filter((token) => kind && model.row(kind, token) >= 0);
    const words = tokens.filter((token) => model.tokens[token].answer && /[\p{L}\p{N}]/u.test(model.tokens[token].text));
    const token = (words.length ? words : tokens).at(-1) ?? 0;
    const map = kind ? Math.floor(model.maps[kind].length / 2) : 0;
    Object.assign(this, { model, panels: [{ kind, token, map }], active: 0, view: 0, order: "layers", scale: "own", opacity: 65, theme: "" });
  }

  get panel() {
    return this.panels[this.active];
  }

  toString() {
    const { model } = this;
    const fields = this.panels.map(({ kind, token, map }) =>
      kind ? [model.tokens[token].position, kind, ...model.maps[kind][map]].join(".") : "",
    );
    const words = { a: fields[0], b: fields[1], active: this.active && "b", view: this.view, order: this.order, scale: this.scale };
    Object.assign(words, { opacity: this.opacity, theme: this.theme });
    const said = Object.entries(words).filter(([name, value]) => value || name === "opacity");
    return new URLSearchParams(said).toString();
  }

  /** Take over what a fragment says; what it says wrongly is left as it is. */
  read(fragment) {
    const words = new URLSearchParams(fragment);
    const first = this.parsed(words.get("a")) ?? this.panels[0];
    const second = this.parsed(words.get("b"));
    this.panels = second ? [first, second] : [first];
    this.active = second && words.get("active") === "b" ? 1 : 0;
    const view = Number(words.get("view"));
    if (this.model.views[view]) this.view = view;
    if (words.get("order") in ORDERS) this.order = words.get("order");
    if (words.get("scale") in SCALES) this.scale = words.get("scale");
    const opacity = words.get("opacity");
    if (opacity !== null && opacity >= 0 && opacity <= 100) this.opacity = Number(opacity);
    if (["light", "dark"].includes(words.get("theme"))) this.theme = words.get("theme");
  }

  parsed(field) {
    const [position, kind, layer, head] = (field ?? "").split(".");
    if (!this.model.kinds.includes(kind)) return undefined;
    const token = this.model.tokens.findIndex((one) => String(one.position) === position);
    const map = this.model.maps[kind].findIndex((one) => String(one[0]) === layer && String(one[1]) === head);
    return map >= 0 && this.model.row(kind, token) >= 0 ? { kind, token, map } : undefined;
  }
}

class Page {
  constructor(root, model, images, address) {
    Object.assign(this, { root, model, images, address, choice: new Choice(model), cell: null, drawn: "", places: [] });
    this.colours = model.arrays.colours.values;
    if (address) this.choice.read(location.hash.slice(1));
    this.build();
    this.show();
    this.tell(this.choice.panel);
    new ResizeObserver(() => this.show()).observe(this.holder);
    if (address) addEventListener("hashchange", () => (this.choice.read(location.hash.slice(1)), this.show()));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.show());
  }

  build() {
    const { model, root } = this;
    const { family, prompt, answer, notes } = model.header;
    root.replaceChildren();
    root.className = "probe";
    // A page of its own takes keys wherever the focus is; in a notebook they are the notebook's until something here has it.
    (this.address ? document : root).addEventListener("keydown", (event) => this.key(event));
    this.strip = element("div", { class: "strip", role: "radiogroup", "aria-label": "The token whose maps are shown" });
    model.tokens.forEach(({ text, position, answer: answered, places }, token) => {
      const attributes = { type: "button", role: "radio", class: answered ? "" : "asked", title: `position ${position}` };
      const disabled = !model.kinds.some((kind) => kind in places);
      this.strip.append(element("button", { ...attributes, disabled, onclick: () => this.choose({ token }) }, text));
    });
    this.layer = element("input", { type: "range", min: 0, oninput: () => this.choose({ map: this.mapOf(Number(this.layer.value)) }) });
    this.layerName = element("output");
    const opaque = () => this.set({ opacity: Number(this.opacity.value) });
    this.opacity = element("input", { type: "range", min: 0, max: 100, oninput: opaque });
    this.kind = options(Object.fromEntries(model.kinds.map((kind) => [kind, KINDS[kind]])), () => this.choose({ kind: this.kind.value }));
    this.order = options(ORDERS, () => this.set({ order: this.order.value }));
    this.scale = options(SCALES, () => this.set({ scale: this.scale.value }));
    const views = Object.fromEntries(model.views.map((view, number) => [number, view.name]));
    this.view = options(views, () => this.set({ view: Number(this.view.value) }));
    this.compare = element("button", { type: "button", onclick: () => this.split() }, "Compare");
    const theme = element("button", { type: "button", onclick: () => this.turn() }, "Light or dark");
    const png = element("button", { type: "button", onclick: () => this.save() }, "PNG");
    const labelled = (text, ...inputs) => element("label", {}, text, ...inputs);
    const controls = element("div", { class: "controls" }, labelled("Show", this.kind), labelled("Layer", this.layer, this.layerName));
    if (model.views.length > 1) controls.append(labelled("View", this.view));
    this.orderLabel = labelled("Order", this.order);
    controls.append(this.orderLabel, labelled("Colours", this.scale), labelled("Opacity", this.opacity), this.compare);
    this.panels = element("div", { class: "panels" });
    this.canvas = element("canvas", { tabindex: 0, role: "img", "aria-label": "Maps of all layers and heads" });
    this.holder = element("div", { class: "matrix" }, this.canvas);
    this.readout = element("output", { class: "readout", "aria-live": "polite" });
    this.canvas.addEventListener("click", (event) => this.pick(event, (map) => this.choose({ map })));
    this.canvas.addEventListener("pointermove", (event) => this.pick(event, (map) => this.tell({ ...this.choice.panel, map })));
    this.canvas.addEventListener("keydown", (event) => this.walk(event));
    if (!model.kinds.length) controls.replaceChildren();
    controls.append(png, theme);
    this.legend = element("p", { class: "notes" });
    this.seen = element("div", { class: "seen" }, this.panels, element("div", {}, this.readout, this.legend, this.holder));
    const said = model.tokens.length ? [this.strip] : [element("p", {}, answer)];
    root.append(
      element("h1", {}, prompt || "A trace"),
      element("p", { class: "family" }, family),
      ...said,
      ...notes.map((note) => element("p", { class: "notes" }, note)),
      controls,
      this.seen,
      element("p", { class: "help" }, KEYS),
    );
  }

  /** Change what is common to all panels. */
  set(changes) {
    Object.assign(this.choice, changes);
    this.show();
  }

  /** Change the active panel; a token without maps of the kind, or a kind without the token, gives way to the nearest that fits. */
  choose(changes) {
    const { model } = this;
    const panel = { ...this.choice.panel, ...changes };
    if (changes.kind) {
      const layer = model.maps[this.choice.panel.kind][this.choice.panel.map][0];
      panel.map = clamped(model.maps[panel.kind].findIndex((one) => one[0] >= layer), model.maps[panel.kind].length);
    }
    if (model.row(panel.kind, panel.token) < 0) {
      const fitting = model.tokens.map((_, token) => token).filter((token) => model.row(panel.kind, token) >= 0);
      const distance = (token) => Math.abs(token - panel.token);
      if ("token" in changes) Object.assign(panel, this.otherKind(panel));
      else panel.token = fitting.reduce((best, token) => (distance(token) < distance(best) ? token : best));
    }
    this.choice.panels[this.choice.active] = panel;
    this.show();
    this.tell(panel);
  }

  otherKind(panel) {
    const kind = this.model.kinds.find((one) => this.model.row(one, panel.token) >= 0);
    return kind ? { kind, map: 0 } : this.choice.panel;
  }

  /** The layers of the active panel's kind, and the map of one of them: of the same head, if it has that. */
  layers() {
    const { kind } = this.choice.panel;
    return [...new Set(this.model.maps[kind].map(([layer]) => layer))];
  }

  mapOf(place) {
    const { kind, map } = this.choice.panel;
    const maps = this.model.maps[kind];
    const layer = this.layers()[place];
    const same = maps.findIndex((one) => one[0] === layer && one[1] === maps[map][1]);
    return same >= 0 ? same : maps.findIndex((one) => one[0] === layer);
  }

  split() {
    const { choice } = this;
    const { panel, scale } = choice;
    if (choice.panels.length > 1) Object.assign(choice, { panels: [panel], active: 0, scale: scale === "compared" ? "own" : scale });
    else Object.assign(choice, { panels: [panel, { ...panel }], active: 1, scale: scale === "own" ? "compared" : scale });
    this.show();
  }

  dark() {
    return isDark(this.choice.theme);
  }

  turn() {
    this.set({ theme: this.dark() ? "light" : "dark" });
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (event.target.matches("select, input") && event.key !== "Escape") return;
    const { choice, model } = this;
    const { kind, token, map } = choice.panel;
    const tokens = (step) => {
      const fitting = model.tokens.map((_, one) => one).filter((one) => model.row(kind, one) >= 0);
      this.choose({ token: fitting[clamped(fitting.indexOf(token) + step, fitting.length)] });
    };
    const layers = (step) => {
      const all = this.layers();
      this.choose({ map: this.mapOf(clamped(all.indexOf(model.maps[kind][map][0]) + step, all.length)) });
    };
    const heads = (step) => this.choose({ map: clamped(map + step, model.maps[kind].length) });
    const next = (names, now) => names[(names.indexOf(now) + 1) % names.length];
    const always = { t: () => this.turn(), p: () => this.save() };
    const actions = {
      ...always,
      ArrowLeft: () => tokens(-1),
      ArrowRight: () => tokens(1),
      ArrowUp: () => layers(-1),
      ArrowDown: () => layers(1),
      h: () => heads(1),
      H: () => heads(-1),
      m: () => this.choose({ kind: next(model.kinds, kind) }),
      s: () => this.set({ order: next(Object.keys(ORDERS), choice.order) }),
      c: () => this.split(),
      x: () => this.set({ active: choice.panels.length - 1 - choice.active }),
      o: () => this.set({ opacity: Math.min(100, choice.opacity + 5) }),
      O: () => this.set({ opacity: Math.max(0, choice.opacity - 5) }),
    };
    const action = (model.kinds.length ? actions : always)[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  }

  /** Arrows on the matrix: to the next map as it is drawn. */
  walk(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.columns, ArrowDown: this.columns }[event.key];
    if (!step || !this.places.length) return;
    event.preventDefault();
    const now = this.places.findIndex(({ map }) => map === this.choice.panel.map);
    const { map } = this.places[clamped(now + step, this.places.length)];
    this.choose({ map });
  }

  show() {
    const { choice, model } = this;
    this.root.dataset.theme = this.dark() ? "dark" : "light";
    if (this.address) history.replaceState(null, "", `#${choice}`);
    if (model.kinds.length) {
      [...this.strip.children].forEach((button, token) => button.setAttribute("aria-checked", String(token === choice.panel.token)));
      const { offsetTop, offsetHeight } = this.strip.children[choice.panel.token];
      const { scrollTop, clientHeight } = this.strip;
      this.strip.scrollTop = Math.max(offsetTop + offsetHeight - clientHeight, Math.min(scrollTop, offsetTop));
      const layers = this.layers();
      this.layer.max = layers.length - 1;
      const layer = model.maps[choice.panel.kind][choice.panel.map][0];
      this.layer.value = layers.indexOf(layer);
      this.layerName.value = `${choice.panel.kind === "attention" ? "block" : "state"} ${layer}`;
      Object.assign(this.kind, { value: choice.panel.kind });
      this.orderLabel.hidden = choice.panel.kind !== "attention";
      this.order.value = choice.order;
      this.scale.value = choice.scale;
      this.view.value = choice.view;
      this.opacity.value = choice.opacity;
      this.compare.setAttribute("aria-pressed", String(choice.panels.length > 1));
    }
    this.showPanels();
    this.showMatrix();
  }

  showPanels() {
    const { choice } = this;
    while (this.panels.children.length > choice.panels.length) this.panels.lastChild.remove();
    while (this.panels.children.length < choice.panels.length) {
      const number = this.panels.children.length;
      const canvas = element("canvas", { tabindex: 0, role: "img" });
      const point = (event) => this.point(event, number);
      canvas.addEventListener("pointermove", point);
      canvas.addEventListener("pointerdown", point);
      canvas.addEventListener("pointerleave", () => ((this.cell = null), this.showPanels()));
      canvas.addEventListener("focus", () => choice.active !== number && this.set({ active: number }));
      canvas.addEventListener("keydown", (event) => this.step(event, number));
      this.panels.append(element("figure", {}, canvas, element("figcaption"), element("div", { class: "scale" })));
    }
    choice.panels.forEach((panel, number) => this.showPanel(panel, number));
  }

  caption(panel) {
    if (!panel.kind) return "";
    const { text } = this.model.tokens[panel.token];
    return `${panel.kind === "attention" ? "attention of" : "cosine to"} “${text}”, ${this.model.name(panel)}`;
  }

  showPanel(panel, number) {
    const { choice, model } = this;
    const [canvas, caption, legend] = this.panels.children[number].children;
    const view = model.views[choice.view];
    this.panels.children[number].className = number === choice.active && choice.panels.length > 1 ? "active" : "";
    caption.textContent = this.caption(panel);
    canvas.setAttribute("aria-label", caption.textContent || "The image");
    const image = this.images[view?.image ?? 0];
    canvas.hidden = !image;
    legend.hidden = true;
    if (!image) return;
    const map = panel.kind && model.map(panel, choice.view);
    const context = drawImage(canvas, image, { grey: map && view.rows && choice.opacity });
    if (!map) return;
    const range = this.range(panel);
    legend.hidden = false;
    legend.replaceChildren(...scaleOf(this.colours, range));
    if (!view.rows) return;
    context.globalAlpha = choice.opacity / 100;
    map.bytes.forEach((_, cell) => {
      context.fillStyle = cssColour(this.colours, colourOf(model.value(map, cell), range));
      context.fillRect(...cellBox(view, canvas, cell));
    });
    context.globalAlpha = 1;
    if (this.cell !== null) drawFrame(context, cellBox(view, canvas, this.cell));
  }

  /** Whether each thumbnail has its own range of values. Maps of one cell have one in common. */
  own() {
    return this.choice.scale !== "shared" && Boolean(this.model.views[this.choice.view].rows);
  }

  /** The values that the ends of the colours stand for in a panel. */
  range(panel) {
    const { choice, model } = this;
    const alike = choice.panels.filter(({ kind }) => kind === panel.kind);
    if (!this.own()) return model.range(alike, choice.view);
    const maps = (choice.scale === "own" ? [panel] : alike).map((one) => model.map(one, choice.view));
    return [Math.min(...maps.map(({ low }) => low)), Math.max(...maps.map(({ high }) => high))];
  }

  point(event, number) {
    const view = this.model.views[this.choice.view];
    if (event.type === "pointerdown" && this.choice.active !== number) this.set({ active: number });
    if (!view?.rows) return;
    this.cell = cellAt(view, event);
    this.showPanels();
    if (this.cell !== null) this.tellCell(number);
  }

  /** Arrows on an image: to the next cell. */
  step(event, number) {
    const view = this.model.views[this.choice.view];
    if (!view?.rows || !this.choice.panels[number].kind) return;
    const cell = cellBeside(view, this.cell, event.key);
    if (cell === undefined) return;
    event.preventDefault();
    this.cell = cell;
    this.showPanels();
    this.tellCell(number);
  }

  /** Say in words what a cell of the image is. */
  tellCell(number) {
    const { choice, model } = this;
    const panel = choice.panels[number];
    const map = panel.kind && model.map(panel, choice.view);
    if (!map) return;
    const cols = model.views[choice.view].cols.length;
    const position = model.arrays[`positions ${choice.view}`].values[this.cell];
    const value = model.value(map, this.cell);
    const words = model.likely(panel, position);
    const lines = [`row ${Math.floor(this.cell / cols)}, column ${this.cell % cols} (position ${position}): ${short(value)}`];
    this.say([...lines, this.caption(panel), words && `likeliest there: ${words}`], { value, cell: this.cell });
  }

  /** Say in words what a map is. */
  tell(panel) {
    const { choice, model } = this;
    const map = panel.kind && model.map(panel, choice.view);
    if (!map) return;
    const mass = map.mass === undefined ? [] : [`on the image ${short(map.mass)}`];
    const entropy = map.entropy === undefined || !model.views[choice.view].rows ? [] : [`spatial entropy ${short(map.entropy)}`];
    const words = model.likely(panel, model.tokens[panel.token].position);
    const range = model.views[choice.view].rows ? [`${short(map.low)} to ${short(map.high)}`] : [];
    this.say([[model.name(panel), ...mass, ...entropy, ...range].join(" · "), words && `likeliest next word: ${words}`], { map: panel.map });
  }

  say(lines, data) {
    this.readout.replaceChildren(...lines.filter(Boolean).map((line) => element("div", {}, line)));
    for (const name of ["value", "cell", "map"]) delete this.readout.dataset[name];
    Object.assign(this.readout.dataset, data);
  }

  /** Where each map stands in the matrix, which is as wide as there is room. */
  arranged(width) {
    const { choice, model } = this;
    const { panel } = choice;
    const maps = model.ordered(panel, choice.view, choice.order);
    const view = model.views[choice.view];
    const [rows, cols] = view.rows ? [view.rows, view.cols] : [[[0, 1]], [[0, 1]]];
    const shape = (rows.at(-1)[1] - rows[0][0]) / (cols.at(-1)[1] - cols[0][0]);
    const tall = (size) => Math.max(6, Math.round(size * Math.min(2, Math.max(0.4, shape))));
    if (panel.kind === "attention" && choice.order === "layers") {
      const counts = new Map();
      const places = maps.map((map) => {
        const [layer] = model.maps.attention[map];
        counts.set(layer, (counts.get(layer) ?? 0) + 1);
        return { map, row: counts.size - 1, col: counts.get(layer) - 1 };
      });
      this.columns = Math.max(...counts.values());
      const across = Math.min(75, Math.max(15, Math.floor((width - 34) / this.columns)));
      const size = across - (across < 30 ? 1 : GAP);
      const down = tall(size) + across - size;
      const labels = [...counts.keys()].map((layer, row) => ({ text: layer, x: 28, y: 16 + row * down + down / 2, align: "right" }));
      const every = Math.ceil(16 / across);
      const heads = Array.from({ length: this.columns }, (_, col) => ({ text: col, x: 34 + col * across + size / 2, y: 7, align: "center" }));
      if (model.maps.attention[0][1] !== "mean") labels.push(...heads.filter((_, col) => col % every === 0));
      const boxes = places.map(({ map, row, col }) => ({ map, x: 34 + col * across, y: 16 + row * down, width: size, height: tall(size) }));
      return { boxes, labels, width: 34 + this.columns * across, height: 16 + counts.size * down };
    }
    const size = 52;
    this.columns = Math.max(1, Math.floor((width - 2) / (size + GAP)));
    const down = tall(size) + 17;
    const boxes = maps.map((map, number) => {
      const [x, y] = [2 + (number % this.columns) * (size + GAP), 2 + Math.floor(number / this.columns) * down];
      return { map, x, y, width: size, height: tall(size) };
    });
    const labels = boxes.map(({ map, x, y }) => {
      const [layer, head] = model.maps[panel.kind][map];
      return { text: head === "" ? layer : `${layer}.${head}`, x: x + size / 2, y: y + tall(size) + 8, align: "center" };
    });
    return { boxes, labels, width: 2 + this.columns * (size + GAP), height: 2 + Math.ceil(maps.length / this.columns) * down };
  }

  showMatrix() {
    const { choice, model, canvas } = this;
    const { panel } = choice;
    this.holder.hidden = !panel.kind || !model.map(panel, choice.view);
    this.legend.hidden = this.holder.hidden;
    if (this.holder.hidden) return;
    const rows = choice.order === "layers" ? "Rows: blocks. Columns: heads." : `Maps by block.head, ${ORDERS[choice.order]}.`;
    this.legend.textContent = panel.kind === "attention" ? rows : "Maps by hidden state.";
    // Some pixels are left for a scroll bar, which would otherwise come and go with the size of what it scrolls.
    const { boxes, labels, width, height } = this.arranged(this.holder.clientWidth || 600);
    this.places = boxes;
    const ratio = devicePixelRatio || 1;
    const tokens = choice.panels.map(({ kind, token }) => `${kind} ${token}`);
    const key = [...tokens, choice.active, choice.view, choice.order, choice.scale, width, height, ratio, this.dark()].join();
    if (this.drawn !== key) {
      this.drawn = key;
      this.thumbnails = document.createElement("canvas");
      Object.assign(this.thumbnails, { width: width * ratio, height: height * ratio });
      this.drawMaps(this.thumbnails.getContext("2d"), ratio, boxes, labels);
    }
    Object.assign(canvas, { width: width * ratio, height: height * ratio });
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const context = canvas.getContext("2d");
    context.drawImage(this.thumbnails, 0, 0);
    context.scale(ratio, ratio);
    choice.panels.forEach((other, number) => {
      const box = boxes.find(({ map }) => map === other.map);
      if (other.kind !== panel.kind || !box) return;
      Object.assign(context, { strokeStyle: this.tone("--accent"), lineWidth: 2.5 });
      context.setLineDash(number === choice.active ? [] : [4, 3]);
      context.strokeRect(box.x - 1, box.y - 1, box.width + 2, box.height + 2);
    });
  }

  drawMaps(context, ratio, boxes, labels) {
    const { choice, model } = this;
    const view = model.views[choice.view];
    const [rows, cols] = view.rows ? [view.rows.length, view.cols.length] : [1, 1];
    // Where a thumbnail has fewer pixels than cells, a pixel is the largest of its cells, so that no peak is lost.
    const across = Math.min(cols, Math.floor(boxes[0].width * ratio));
    const down = Math.min(rows, Math.floor(boxes[0].height * ratio));
    const pixel = (cell) => Math.floor((Math.floor(cell / cols) * down) / rows) * across + Math.floor(((cell % cols) * across) / cols);
    const targets = Uint32Array.from({ length: rows * cols }, (_, cell) => pixel(cell));
    const largest = new Uint8Array(across * down);
    const small = document.createElement("canvas");
    Object.assign(small, { width: across, height: down });
    const painter = small.getContext("2d", { willReadFrequently: true });
    const pixels = painter.createImageData(across, down);
    context.scale(ratio, ratio);
    context.imageSmoothingEnabled = false;
    const own = this.own();
    const shared = own || this.range(choice.panel);
    for (const { map, x, y, width, height } of boxes) {
      const one = model.map({ ...choice.panel, map }, choice.view);
      const range = own ? [one.low, one.high] : shared;
      largest.fill(0);
      one.bytes.forEach((byte, cell) => (largest[targets[cell]] = Math.max(largest[targets[cell]], byte)));
      largest.forEach((byte, number) => {
        const at = 3 * colourOf(model.decoded(one, byte), range);
        pixels.data.set([this.colours[at], this.colours[at + 1], this.colours[at + 2], 255], 4 * number);
      });
      painter.putImageData(pixels, 0, 0);
      context.drawImage(small, x, y, width, height);
    }
    Object.assign(context, { fillStyle: this.tone("--quiet"), font: "11px system-ui, sans-serif", textBaseline: "middle" });
    for (const { text, x, y, align } of labels) {
      context.textAlign = align;
      context.fillText(text, x, y);
    }
  }

  tone(name) {
    return getComputedStyle(this.root).getPropertyValue(name).trim();
  }

  /** Call with the map under the pointer, if there is one. */
  pick(event, call) {
    const { left, top } = this.canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - left, event.clientY - top];
    const found = this.places.find((box) => x >= box.x && x < box.x + box.width && y >= box.y && y < box.y + box.height);
    if (found) call(found.map);
  }

  /** What is seen, as one image: prompt and answer, the panels with what they show, the part of the matrix in sight. */
  picture() {
    const { prompt, answer } = this.model.header;
    const parts = [...this.panels.children].map(({ children: [canvas, caption] }) => ({ canvas, text: caption.textContent }));
    const ratio = devicePixelRatio || 1;
    const height = this.holder.hidden ? 0 : Math.min(this.holder.clientHeight * ratio, this.canvas.height);
    const below = height ? { canvas: this.canvas, from: this.holder.scrollTop * ratio, height } : undefined;
    const shown = parts.filter(({ canvas }) => !canvas.hidden);
    return sheet(this.root, [prompt, answer], shown, { below });
  }

  save() {
    download(this.picture(), "trace.png");
  }
}
