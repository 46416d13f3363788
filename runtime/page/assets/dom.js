// What all sections share: elements, numbers as text, a colour for each layer, one tooltip.
// Text only ever enters the page as text nodes and attributes, so names of layers can hold anything.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style" && typeof value === "object")
      for (const [key, each] of Object.entries(value)) element.style.setProperty(key, each);
    else element.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(4)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
  return element;
}
const html = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
// What a drawing shows, in words, and its size in units; given a class, it is as large as the class says.
const drawing = ({ label, width, height, class: fit }, ...children) =>
  svg(
    "svg",
    {
      ...(fit ? { class: fit } : { width, height }),
      viewBox: `0 0 ${width} ${height}`,
      role: "img",
      "aria-label": label,
    },
    ...children,
  );

const sum = (values) => values.reduce((total, each) => total + each, 0);
const mean = (values) => (values.length ? sum(values) / values.length : 0);
const whole = (value) => Math.round(value).toLocaleString("en-US");
const times = (shape) => shape.join(" × ");
// three digits that count, and never an exponent that a reader must decode
function digits(value, count = 3) {
  if (value === 0) return "0";
  const size = Math.floor(Math.log10(Math.abs(value)));
  if (size >= count) return whole(value);
  return value.toFixed(Math.min(Math.max(count - 1 - size, 0), 12));
}
function scaled(value, count = 3) {
  for (const [unit, letter] of [
    [1e12, "T"],
    [1e9, "G"],
    [1e6, "M"],
    [1e3, "k"],
  ]) {
    if (Math.abs(value) >= unit) return `${digits(value / unit, count)} ${letter}`;
  }
  return digits(value, count);
}
function percent(share, count = 3) {
  if (share === 0 || share === 1) return `${100 * share} %`;
  return `${100 * share < 0.001 ? (100 * share).toExponential(1) : digits(100 * share, count)} %`;
}
const power = (exponent) =>
  `2${[...String(exponent)].map((each) => (each === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[each])).join("")}`;
function duration(nanoseconds) {
  for (const [unit, name] of [
    [1e9, "s"],
    [1e6, "ms"],
    [1e3, "µs"],
  ])
    if (nanoseconds >= unit) return `${digits(nanoseconds / unit)} ${name}`;
  return `${digits(nanoseconds)} ns`;
}
function energy(picojoules, count = 3) {
  for (const [unit, name] of [
    [1e9, "mJ"],
    [1e6, "µJ"],
    [1e3, "nJ"],
  ])
    if (picojoules >= unit) return `${digits(picojoules / unit, count)} ${name}`;
  return `${digits(picojoules, count)} pJ`;
}
const watts = (milliwatts) =>
  milliwatts >= 1e3 ? `${digits(milliwatts / 1e3)} W` : `${digits(milliwatts)} mW`;
// Between which values a figure lies, after a sign of its own; nothing where no more than one is known.
const between = ([low, high], text, factor = 1, before = "") =>
  low === high ? "" : `${before}${text(low * factor)} to ${text(high * factor)}`;
const counted = (count, word) => `${whole(count)} ${word}${count === 1 ? "" : "s"}`;
const bytes = (text) => Uint8Array.from(atob(text), (each) => each.charCodeAt(0));

// Groups of layers: a block of a SpikingResformer, or what comes before the first dot of a name.
function groupOf(name) {
  const block = /^layers\.\d+\.\d+(?=\.|$)/.exec(name);
  return block ? block[0] : name.split(".")[0];
}
const inBlock = (name) => /^layers\.\d+\.\d+\./.test(name);
const shortName = (name) => (inBlock(name) ? name.slice(groupOf(name).length + 1) : name);
const briefName = (name) => name.replace(/^layers\./, "");

// A hue a group, told apart by the colour-blind as well (after Okabe and Ito), darker to lighter inside the group.
const HUES = [
  [250, 0.13],
  [62, 0.13],
  [165, 0.1],
  [350, 0.13],
  [215, 0.09],
  [35, 0.14],
  [300, 0.12],
  [110, 0.11],
];
function colours(nodes) {
  const groups = new Map();
  for (const node of nodes) {
    const group = groupOf(node.name);
    if (!groups.has(group)) groups.set(group, []);
    groups.get(group).push(node.name);
  }
  // layers of no block have a hue each; darker the second time around
  const found = new Map();
  let hue = 0;
  for (const names of groups.values()) {
    const [angle, chroma] = HUES[hue % HUES.length],
      round = Math.floor(hue / HUES.length) % 2;
    hue += 1;
    names.forEach((name, index) => {
      const place = names.length > 1 ? index / (names.length - 1) : 0.45 - 0.25 * round;
      const step = names.length > 1 ? (index % 2 ? 0.05 : -0.02) : 0;
      found.set(
        name,
        `oklch(${(0.53 + 0.22 * place + step).toFixed(3)} ${chroma} ${(angle - 14 + 28 * place).toFixed(1)})`,
      );
    });
  }
  return found;
}

const tip = html("div", { id: "tip", hidden: true, role: "status" });
function place(event) {
  tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
  tip.style.top = `${Math.min(event.clientY + 16, innerHeight - tip.offsetHeight - 8)}px`;
}
document.addEventListener("pointermove", (event) => {
  const target = event.target instanceof Element ? event.target.closest("[data-tip]") : null;
  tip.hidden = target === null;
  if (target !== null) {
    if (tip.textContent !== target.dataset.tip) tip.textContent = target.dataset.tip;
    place(event);
  }
});
// a layer under the pointer is marked wherever it is shown
document.addEventListener("pointerover", (event) => {
  const layer = event.target instanceof Element ? event.target.closest("[data-layer]")?.dataset.layer : undefined;
  for (const each of document.querySelectorAll("tr[data-layer], .multiple[data-layer]"))
    each.classList.toggle("hot", layer !== undefined && each.dataset.layer === layer);
});

const dot = (colour) => html("span", { class: "dot", style: { background: colour } });
const empty = (text, command) => html("div", { class: "empty" }, text, command && html("code", {}, command));
const caption = (text) => html("p", { class: "caption" }, text);

// Rows that the reader sorts by any column.
// columns: {title, value(row) -> number | string | null, text(row) -> string | Node, numeric, bar, total}
function sortable(columns, rows, options = {}) {
  const body = html("tbody");
  const most = columns.map((column) => (column.bar ? Math.max(...rows.map((row) => column.value(row) ?? 0), 0) : 0));
  const heads = columns.map((column, index) =>
    html(
      "th",
      { class: column.numeric ? "n" : null, scope: "col", "data-tip": column.hint },
      html("button", { type: "button", onclick: () => sort(index) }, column.title),
    ),
  );
  let sorted = -1,
    descending = true;
  function draw(shown) {
    body.replaceChildren(
      ...shown.map((row) =>
        html(
          "tr",
          options.row?.(row) ?? {},
          columns.map((column, index) => {
            const value = column.value(row);
            const bar = most[index] > 0 && value ? `${((70 * value) / most[index]).toFixed(1)}%` : null;
            return html(
              "td",
              { class: column.numeric ? "n" : null, style: bar && { "--bar": bar }, "data-value": value ?? "" },
              value === null || value === undefined
                ? html("span", { class: "soft" }, "–")
                : column.text
                  ? column.text(row)
                  : String(value),
            );
          }),
        ),
      ),
    );
  }
  function sort(index) {
    descending = sorted === index ? !descending : Boolean(columns[index].numeric);
    sorted = index;
    heads.forEach((head, each) =>
      each === index
        ? head.setAttribute("aria-sort", descending ? "descending" : "ascending")
        : head.removeAttribute("aria-sort"),
    );
    const key = columns[index].value;
    draw(
      [...rows].sort((left, right) => {
        const [a, b] = [key(left), key(right)];
        if (a === null || a === undefined) return 1;
        if (b === null || b === undefined) return -1;
        const order = typeof a === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
        return descending ? -order : order;
      }),
    );
  }
  draw(rows);
  const totals =
    columns.some((column) => column.total) &&
    html(
      "tfoot",
      {},
      html(
        "tr",
        {},
        columns.map((column, index) =>
          html(
            "td",
            { class: column.numeric ? "n" : null },
            index === 0 ? "all" : column.total ? column.total(rows) : "",
          ),
        ),
      ),
    );
  return html(
    "div",
    { class: "wide" },
    html("table", { class: options.class }, html("thead", {}, html("tr", {}, heads)), body, totals),
  );
}
