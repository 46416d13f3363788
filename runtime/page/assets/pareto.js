// A Pareto plot: what is gained against what it costs, the ways that no other beats, and an interval of each figure.

const PLOT = { width: 680, height: 520, left: 76, right: 24, top: 22, bottom: 58 };
const POINT_HUES = [250, 62, 165, 350, 300, 110, 35, 215];
const SHAPES = ["circle", "square", "triangle", "diamond", "cross", "star"];

// A mark around a centre, of about the same area whatever its shape.
function mark(shape, x, y, size) {
  const around = (corners, inner = size, turn = -Math.PI / 2) =>
    Array.from({ length: corners }, (_, index) => {
      const angle = turn + (2 * Math.PI * index) / corners,
        far = index % 2 ? inner : size;
      return `${(x + far * Math.cos(angle)).toFixed(2)} ${(y + far * Math.sin(angle)).toFixed(2)}`;
    });
  const outline = (points) => svg("path", { d: `M${points.join("L")}Z`, class: "mark" });
  switch (shape) {
    case "circle":
      return svg("circle", { cx: x, cy: y, r: 0.88 * size, class: "mark" });
    case "square":
      return outline(around(4, 1.06 * size, -Math.PI / 4));
    case "triangle":
      return outline(around(6, 0.5 * size).filter((_, index) => index % 2 === 0));
    case "diamond":
      return outline(around(4, size));
    case "cross":
      return outline(around(8, 0.42 * size));
    default:
      return outline(around(10, 0.5 * size));
  }
}

// Which values an axis spans: those of the points, their intervals if shown, and some room.
function span(points, key, intervals) {
  const ends = points.flatMap((point) => (intervals ? [point[`${key}_low`], point[key], point[`${key}_high`]] : [point[key]]));
  const values = ends.filter((value) => value !== null && value !== undefined);
  const low = Math.min(...values),
    high = Math.max(...values);
  const room = 0.07 * (high - low || Math.abs(high) || 1);
  return [low - room < 0 && low >= 0 ? 0 : low - room, high + room];
}

// Between what a figure lies, of those that have an interval.
function rangeOf(point, { key, text }) {
  const [low, high] = [point[`${key}_low`], point[`${key}_high`]];
  return Number.isFinite(low) && Number.isFinite(high) ? between([low, high], text) : "";
}

// points: those of a sweep; x and y: {key, title, text, tick, share}; front: indices; look(point): {hue, shape}
function paretoPlot({ points, pages, x, y, front, look, intervals, original, title }) {
  const shown = points
    .map((point, index) => ({ point, index }))
    .filter(({ point }) => Number.isFinite(point[x.key]) && Number.isFinite(point[y.key]));
  const spans = (axis) => span(shown.map(({ point }) => point), axis.key, intervals);
  const [left, right] = spans(x);
  let [low, high] = spans(y);
  if (y.share) {
    high = Math.min(Math.max(high, original ?? 0) + (original ? 0.01 * (high - low) : 0), 1 + 0.02 * (1 - low));
    low = Math.max(low, 0);
  }
  const atX = (value) => PLOT.left + ((PLOT.width - PLOT.left - PLOT.right) * (value - left)) / (right - left || 1);
  const atY = (value) =>
    PLOT.height - PLOT.bottom - ((PLOT.height - PLOT.top - PLOT.bottom) * (value - low)) / (high - low || 1);
  const floor = PLOT.height - PLOT.bottom,
    end = PLOT.width - PLOT.right;

  const grid = [
    ticks(left, right, 6).map((value) => [
      svg("line", { x1: atX(value), x2: atX(value), y1: PLOT.top, y2: floor, class: "grid" }),
      svg("text", { x: atX(value), y: floor + 17, "text-anchor": "middle", class: "soft" }, x.text(value)),
    ]),
    ticks(low, high, 7)
      .filter((value) => !y.share || value <= 1 + 1e-9)
      .map((value) => [
        svg("line", { x1: PLOT.left, x2: end, y1: atY(value), y2: atY(value), class: "grid" }),
        svg("text", { x: PLOT.left - 8, y: atY(value) + 4, "text-anchor": "end", class: "soft" }, (y.tick ?? y.text)(value)),
      ]),
    svg("line", { x1: PLOT.left, x2: end, y1: floor, y2: floor, class: "axis" }),
    svg("line", { x1: PLOT.left, x2: PLOT.left, y1: PLOT.top, y2: floor, class: "axis" }),
    svg(
      "text",
      { x: (PLOT.left + end) / 2, y: PLOT.height - 14, "text-anchor": "middle", class: "axis-title" },
      `${x.title}  (less is better ←)`,
    ),
    svg("text", { x: 0, y: 12, class: "axis-title" }, `${y.title}  (more is better ↑)`),
  ];
  const reference =
    original !== null &&
    original !== undefined &&
    original >= low &&
    original <= high && [
      svg("line", { x1: PLOT.left, x2: end, y1: atY(original), y2: atY(original), class: "original" }),
      svg(
        "text",
        { x: end - 4, y: atY(original) - 5, "text-anchor": "end", class: "soft" },
        `original, in floating point: ${y.text(original)}`,
      ),
    ];
  // what each way of the front reaches at its cost, until the next one costs more
  const known = new Set(shown.map(({ index }) => index));
  const steps = front.filter((index) => known.has(index)).map((index) => [atX(points[index][x.key]), atY(points[index][y.key])]);
  const stairs =
    steps.length &&
    svg("path", {
      d: `${steps.map(([px, py], step) => (step ? `H${px}V${py}` : `M${px} ${floor}V${py}`)).join("")}H${end}`,
      class: "front",
    });
  const bars = ({ point, index }) => {
    const bar = (axis, from, to, line) => {
      const [least, most] = [point[`${axis.key}_low`], point[`${axis.key}_high`]];
      return (
        intervals &&
        Number.isFinite(least) &&
        Number.isFinite(most) &&
        least !== most &&
        svg("path", { d: line(from(least), to(most)), class: "interval", "data-interval": `${axis.key} ${index}` })
      );
    };
    const [px, py] = [atX(point[x.key]), atY(point[y.key])];
    return [
      bar(x, atX, atX, (a, b) => `M${a} ${py - 4}v8M${a} ${py}H${b}M${b} ${py - 4}v8`),
      bar(y, atY, atY, (a, b) => `M${px - 4} ${a}h8M${px} ${a}V${b}M${px - 4} ${b}h8`),
    ];
  };
  const chosen = new Set(front);
  const marks = shown
    .sort((one, other) => chosen.has(one.index) - chosen.has(other.index))
    .map((each) => {
      const { point, index } = each,
        { hue, shape } = look(point);
      const [px, py] = [atX(point[x.key]), atY(point[y.key])];
      const attributes = {
        class: `way${chosen.has(index) ? " best" : ""}${point.fits === false ? " unfit" : ""}`,
        style: { "--hue": hue },
        "data-index": index,
        "data-x": point[x.key],
        "data-y": point[y.key],
        "data-tip": wayInWords(point, [y, x], chosen.has(index)),
        "aria-label": wayInWords(point, [y, x], chosen.has(index)).replaceAll("\n", ", "),
      };
      const content = [
        bars(each),
        mark(shape, px, py, chosen.has(index) ? 7.5 : 6),
        svg("circle", { cx: px, cy: py, r: 13, class: "hit" }),
      ];
      return pages[index]
        ? svg("a", { ...attributes, href: pages[index] }, content)
        : svg("g", { ...attributes, role: "img", tabindex: "0" }, content);
    });
  const taken = shown.map(({ point }) => [atX(point[x.key]) - 7, atY(point[y.key]) - 7, 14, 14]);
  const names = front.filter((index) => known.has(index)).map((index) => {
    const text = Object.values(points[index].choices).join(" · "),
      [px, py] = [atX(points[index][x.key]), atY(points[index][y.key])];
    const width = 6.1 * text.length;
    const free = ([bx, by, bw, bh]) =>
      bx > PLOT.left + 2 &&
      bx + bw < end &&
      by > PLOT.top - 14 &&
      taken.every(([tx, ty, tw, th]) => bx + bw < tx || tx + tw < bx || by + bh < ty || ty + th < by);
    const boxes = [
      [px - width - 8, py - 20, width, 13],
      [px + 9, py + 7, width, 13],
      [px + 9, py - 20, width, 13],
      [px - width - 8, py + 7, width, 13],
      [px - width / 2, py - 26, width, 13],
      [px - width / 2, py + 13, width, 13],
    ];
    const box = boxes.find(free);
    if (!box) return null;
    taken.push(box);
    return svg("text", { x: box[0], y: box[1] + 10, class: "way-name", "aria-hidden": "true" }, text);
  });
  return svg(
    "svg",
    { class: "fit pareto", viewBox: `0 0 ${PLOT.width} ${PLOT.height}`, role: "group", "aria-label": title },
    grid,
    reference,
    stairs,
    marks,
    names,
  );
}

// A way in words, for a tip and for who hears the page.
function wayInWords(point, axes, best) {
  const figure = (axis) => {
    const range = rangeOf(point, axis);
    return `${axis.title} ${axis.text(point[axis.key])}${range && ` (${range})`}`;
  };
  return [
    Object.entries(point.choices)
      .map(([name, value]) => `${name} ${value}`)
      .join(", "),
    ...axes.map(figure),
    point.fits === false && "does not fit the chip",
    best && "on the Pareto front",
  ]
    .filter(Boolean)
    .join("\n");
}
