// Elements. Text only ever enters the page as text nodes and attributes, so names of layers can hold anything.

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

const bytes = (text) => Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
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
    { class: `wide ${options.tall ? "tall" : ""}`, "data-label": options.label },
    html("table", { class: options.class }, html("thead", {}, html("tr", {}, heads)), body, totals),
  );
}
