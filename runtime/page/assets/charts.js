// Frames that several figures share.

const needsRun = (view, what) =>
  empty(`${what} need a run of some samples.`, `resformer-report ${view.build.name} --input X.npy -o report.html`);

function figures(rows) {
  return html(
    "div",
    { class: "figures" },
    rows
      .filter(Boolean)
      .map(([label, value, note, key, raw]) =>
        html(
          "div",
          {},
          html("div", { class: "label" }, label),
          html("div", { class: "value", "data-key": key, "data-value": raw }, value),
          note && html("div", { class: "note" }, note),
        ),
      ),
  );
}

// Names and values, each value in a class of its own if it has one.
const factTable = (facts) =>
  html(
    "table",
    { class: "plain" },
    html(
      "tbody",
      {},
      facts.map(([name, value, look = null]) => html("tr", {}, html("td", {}, name), html("td", { class: look }, value))),
    ),
  );

function multiple(view, name, facts, ...content) {
  return html(
    "div",
    { class: "multiple layer", "data-layer": name, "data-tip": null },
    html(
      "div",
      { class: "name", title: name },
      dot(view.colour(name)),
      html("span", {}, html("bdi", { dir: "ltr" }, name)),
    ),
    content,
    html("div", { class: "fact" }, facts),
  );
}

// Canvases take the colours that the page has.
function paint(canvas, width, height, pixel) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d"),
    image = context.createImageData(width, height);
  for (let index = 0; index < width * height; index += 1)
    image.data.set(pixel(index % width, Math.floor(index / width)), 4 * index);
  context.putImageData(image, 0, 0);
  return canvas;
}

function rgbOf(colour) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const context = canvas.getContext("2d");
  context.fillStyle = colour;
  context.fillRect(0, 0, 1, 1);
  return [...context.getImageData(0, 0, 1, 1).data.slice(0, 3)];
}

const clipped = (text, length) => (text.length > length ? `…${text.slice(1 - length)}` : text);

function blocks(names) {
  const found = [];
  names.forEach((name, index) => {
    const group = groupOf(name),
      last = found.at(-1);
    if (last?.group === group) last.end = index + 1;
    else found.push({ group, begin: index, end: index + 1 });
  });
  return found;
}

// Under a grid: a column's layer by its colour, and the blocks.
function keys(view, layers, left, cell, top) {
  return [
    layers.map((layer, at) =>
      svg("rect", {
        x: left + at * cell + 1,
        y: top,
        width: cell - 2,
        height: 7,
        fill: view.colour(layer.name),
        "data-tip": layer.name,
        class: "layer",
        "data-layer": layer.name,
      }),
    ),
    blocks(layers.map((layer) => layer.name)).map(
      (each) =>
        (each.end - each.begin) * cell > 30 &&
        svg(
          "text",
          {
            class: "faint",
            x: left + ((each.begin + each.end) / 2) * cell,
            y: top + 19,
            "text-anchor": "middle",
            "font-size": 10,
          },
          clipped(each.group, Math.floor(((each.end - each.begin) * cell) / 6)),
        ),
    ),
  ];
}

function ticksUpTo(high, count = 4) {
  const rough = high / count,
    power = 10 ** Math.floor(Math.log10(rough || 1));
  const size = [1, 2, 2.5, 5, 10].map((each) => each * power).find((each) => each >= rough) ?? power;
  return Array.from({ length: Math.floor(high / size + 1e-9) + 1 }, (_, index) => index * size);
}

// A row of columns along the network, one a layer: the frame that several figures share.
function along(view, names, options) {
  const { height = 170, low = 0, high, ticks, unit, mark } = options;
  const width = 1140,
    left = 46,
    right = 8,
    top = 10,
    bottom = 18;
  const step = (width - left - right) / names.length;
  const x = (index) => left + step * (index + 0.5);
  const y = (value) => top + (height - top - bottom) * (1 - (value - low) / (high - low || 1));
  const edge = (index) => left + step * index;
  const drawn = drawing(
    { label: options.label, width, height, class: "fit long" },
    ticks.map((tick) => [
      svg("path", { class: "grid", d: `M${left},${y(tick).toFixed(1)}H${width - right}` }),
      svg("text", { class: "faint", x: left - 6, y: y(tick) + 3.5, "text-anchor": "end" }, unit(tick)),
    ]),
    blocks(names).map((each) => [
      svg("path", { class: "axis", d: `M${edge(each.begin) + 1.5},${height - bottom + 1}H${edge(each.end) - 1.5}` }),
      (each.end - each.begin) * step > 7 * Math.min(each.group.length, 4) &&
        svg(
          "text",
          {
            class: "faint",
            x: (edge(each.begin) + edge(each.end)) / 2,
            y: height - 4,
            "text-anchor": "middle",
            "font-size": 10,
          },
          clipped(each.group, Math.max(Math.floor(((each.end - each.begin) * step) / 6), 3)),
        ),
    ]),
    names.map((name, index) =>
      svg(
        "g",
        { class: "layer", "data-layer": name, "data-tip": options.tip(name, index) },
        svg("rect", { x: edge(index), y: top, width: step, height: height - top - bottom, fill: "transparent" }),
        mark(name, { x: x(index), y, step, zero: y(low) }),
      ),
    ),
  );
  return html("div", { class: "wide" }, drawn);
}

// One bar of all layers side by side.
function stacked(view, parts, total, text) {
  const width = 1140,
    height = 44;
  let x = 0;
  const drawn = drawing(
    { label: "shares of all layers", width, height, class: "fit long" },
    parts.map((part) => {
      const wide = total > 0 ? (width * part.value) / total : 0,
        at = x;
      x += wide;
      const label = briefName(part.name);
      return svg(
        "g",
        {
          class: "layer",
          "data-layer": part.name,
          "data-tip": `${part.name}\n${text(part.value)}, ${percent(part.value / total)}`,
        },
        svg("rect", { x: at, y: 2, width: Math.max(wide - 1, 0.3), height: 24, fill: part.colour }),
        wide > 6.4 * label.length + 8 &&
          svg("text", { x: at + wide / 2, y: 39, "text-anchor": "middle", "font-size": 10, class: "soft" }, label),
      );
    }),
  );
  return html("div", { class: "wide" }, drawn);
}

// A sample's pixels.
function drawn(image, label) {
  const pixels = bytes(image.rgb);
  return paint(
    html("canvas", { role: "img", "aria-label": label }),
    image.columns,
    image.rows,
    (x, y) => [...pixels.subarray(3 * (y * image.columns + x), 3 * (y * image.columns + x) + 3), 255],
  );
}
