// Shows the index of a run: its worst images, and the IoU of each class. parts.js of probe.views.page stands before it.

const KEYS = "A column's title sorts by it, and again the other way round · t theme";

/** The columns of each table: title, the value that sorts, and the cell. */
const IMAGES = [
  { title: "image", value: ({ name }) => name, cell: (image) => element("a", { href: image.page }, image.name) },
  { title: "mIoU", value: ({ miou }) => miou, cell: ({ miou }) => percent(miou) },
  { title: "ground truth", cell: ({ truth }) => truth },
  { title: "predicted", cell: ({ predicted }) => predicted },
  { title: "missed", value: ({ missed }) => missed.length, cell: ({ missed }) => missed.join(", ") },
  { title: "not there", value: ({ invented }) => invented.length, cell: ({ invented }) => invented.join(", ") },
];
const CLASSES = [
  { title: "class", value: ({ name }) => name, cell: ({ name }) => name },
  { title: "IoU", value: ({ iou }) => iou, cell: ({ iou }) => element("span", {}, bar(iou), percent(iou)) },
  { title: "in these images", value: ({ images }) => images.length, cell: ({ images }) => listed(images) },
];

function percent(value) {
  return value === null ? "-" : (100 * value).toFixed(1);
}

function bar(value) {
  return element("span", { class: "bar" }, element("i", { style: `width: ${100 * (value ?? 0)}%` }));
}

/** Links to images, with commas between them. */
function listed(images) {
  const links = images.map(({ name, page }) => element("a", { href: page }, name));
  return element("span", {}, ...links.flatMap((link, number) => (number ? [", ", link] : [link])));
}

/**
 * Show packed data in an element.
 * @param {HTMLElement} root emptied, and filled.
 * @param {string} packed see `unpack`.
 * @param {{address?: boolean}} options address: keep the order and the theme in the fragment of the page's address, so that it can be linked.
 */
export async function mount(root, packed, { address = false } = {}) {
  const opened = await openPacked(root, packed);
  if (opened) new Index(root, opened.header, opened.images, address);
}

class Index {
  constructor(root, header, bitmaps, address) {
    Object.assign(this, { root, header, address });
    this.orders = { images: { column: 1, down: false }, classes: { column: 1, down: false } };
    this.theme = "";
    if (address) this.read(location.hash.slice(1));
    this.rows = {
      images: header.images.map((image, number) => {
        const [truth, predicted] = [0, 1].map((side) => drawn(bitmaps[2 * number + side], `${image.name}, ${side ? "predicted" : "ground truth"}`));
        return { ...image, truth, predicted };
      }),
      classes: header.classes.map((one) => ({ ...one, images: header.images.filter(({ classes }) => classes.includes(one.name)) })),
    };
    this.build();
    this.show();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.show());
    root.ownerDocument.addEventListener("keydown", (event) => event.key === "t" && !event.ctrlKey && !event.metaKey && this.turn());
  }

  toString() {
    const said = ([name, { column, down }]) => [name, `${column}${down ? "d" : ""}`];
    return new URLSearchParams([...Object.entries(this.orders).map(said), ...(this.theme ? [["theme", this.theme]] : [])]).toString();
  }

  /** Take over what a fragment says; what it says wrongly is left as it is. */
  read(fragment) {
    const words = new URLSearchParams(fragment);
    for (const [name, columns] of Object.entries({ images: IMAGES, classes: CLASSES })) {
      const [, column, down] = /^(\d)(d?)$/.exec(words.get(name) ?? "") ?? [];
      if (columns[column]?.value) this.orders[name] = { column: Number(column), down: Boolean(down) };
    }
    if (["light", "dark"].includes(words.get("theme"))) this.theme = words.get("theme");
  }

  turn() {
    this.theme = isDark(this.theme) ? "light" : "dark";
    this.show();
  }

  build() {
    const { header, root } = this;
    root.replaceChildren();
    root.className = "probe";
    this.tables = { images: element("table"), classes: element("table") };
    const theme = element("button", { type: "button", onclick: () => this.turn() }, "Light or dark");
    root.append(element("h1", {}, header.title), element("p", { class: "family" }, header.facts), element("div", { class: "controls" }, theme));
    if (header.images.length) root.append(element("h2", {}, "The worst images"), element("div", { class: "wide" }, this.tables.images));
    root.append(element("h2", {}, "IoU by class, in percent"), element("div", { class: "wide" }, this.tables.classes));
    if (header.failures.length) root.append(element("h2", {}, "Failed images"));
    root.append(...header.failures.map((failure) => element("p", { class: "notes" }, failure)), element("p", { class: "help" }, KEYS));
  }

  show() {
    this.root.dataset.theme = isDark(this.theme) ? "dark" : "light";
    if (this.address) history.replaceState(null, "", `#${this}`);
    this.fill("images", IMAGES);
    this.fill("classes", CLASSES);
  }

  fill(name, columns) {
    const order = this.orders[name];
    const { value } = columns[order.column];
    const sorted = [...this.rows[name]].sort((a, b) => (order.down ? -1 : 1) * compared(value(a), value(b)));
    const titles = columns.map(({ title, value: sorts }, column) => {
      const direction = column === order.column && (order.down ? "descending" : "ascending");
      const button = () => element("button", { type: "button", onclick: () => this.sort(name, column) }, title);
      return element("th", { "aria-sort": direction }, sorts ? button() : title);
    });
    const rows = sorted.map((row) => element("tr", {}, ...columns.map(({ cell }) => element("td", {}, cell(row)))));
    this.tables[name].replaceChildren(element("tr", {}, ...titles), ...rows);
  }

  sort(name, column) {
    const order = this.orders[name];
    this.orders[name] = { column, down: order.column === column && !order.down };
    this.show();
    this.tables[name].querySelectorAll("th")[column].firstChild.focus();
  }
}

/** The order of two values; what is not known comes last, or first the other way round. */
function compared(one, other) {
  if (one === other) return 0;
  if (one === null || other === null) return one === null ? 1 : -1;
  return one < other ? -1 : 1;
}

function drawn(bitmap, text) {
  const canvas = element("canvas", { width: bitmap.width, height: bitmap.height, role: "img", "aria-label": text });
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  return canvas;
}
