// The page of a sweep: what varies, a Pareto plot whose axes the reader chooses, and a table of every figure.

const { sweep, pages, told, version } = JSON.parse(document.getElementById("data").textContent);
const { points } = sweep;
const done = points.filter((point) => point.error === null);
const percents = (value) => `${digits(100 * value, 4)} %`;
const percentTick = (value) => `${digits(100 * value, 3)} %`;
const GAINS = [
  { key: "accuracy", title: "accuracy", text: percents, tick: percentTick, share: true },
  { key: "agreement", title: "agreement with the original", short: "agreement", text: percents, tick: percentTick, share: true },
  { key: "sqnr_db", title: "worst layer's SQNR", short: "worst SQNR", text: (value) => `${digits(value)} dB` },
];
const COSTS = [
  { key: "energy_mj", title: "energy a sample", short: "energy", text: (value) => energy(value * 1e9) },
  { key: "latency_us", title: "latency", text: (value) => duration(value * 1e3) },
  { key: "interval_us", title: "time from sample to sample", short: "a sample every", text: (value) => duration(value * 1e3) },
  { key: "power_mw", title: "power", text: watts },
  { key: "cores", title: "cores", text: (value) => scaledCount(value) },
  { key: "chips", title: "chips", text: (value) => scaledCount(value) },
  { key: "sops", title: "synaptic operations a sample", short: "SOPs", text: (value) => scaled(value) },
  { key: "paper_mj", title: "energy a sample by the paper's formula", short: "paper's energy", text: (value) => energy(value * 1e9) },
];
// between whole numbers an axis may have others
const scaledCount = (value) => (Number.isInteger(value) ? whole(value) : digits(value));
const shortOf = (axis) => axis.short ?? axis.title;
const measured = (axis) => done.some((point) => Number.isFinite(point[axis.key]));
const gains = GAINS.filter(measured),
  costs = COSTS.filter(measured);
const options = Object.keys(points[0].choices);
const valuesOf = (option) => [...new Set(points.map((point) => point.choices[option]))];
const varied = options.filter((option) => valuesOf(option).length > 1);
const titleOf = (point) =>
  Object.entries(point.choices)
    .map(([name, value]) => `${name} ${value}`)
    .join(", ");

const state = {
  gain: gains[0]?.key,
  cost: costs[0]?.key,
  colour: varied[0] ?? options[0],
  intervals: "shown",
};
const shapeOption = () => varied.find((option) => option !== state.colour);
function look(point) {
  const hue = POINT_HUES[valuesOf(state.colour).indexOf(point.choices[state.colour]) % POINT_HUES.length];
  const other = shapeOption();
  const shape = other ? SHAPES[valuesOf(other).indexOf(point.choices[other]) % SHAPES.length] : SHAPES[0];
  return { hue, shape };
}
const frontNow = () => sweep.fronts[state.gain]?.[state.cost] ?? [];

function sweepFigures() {
  const best = (key, sign) =>
    done
      .filter((point) => point.fits !== false && Number.isFinite(point[key]))
      .sort((one, other) => sign * (other[key] - one[key]))[0];
  const figure = (title, axis, sign) => {
    const point = axis && best(axis.key, sign);
    if (!point) return null;
    const note = [rangeOf(point, axis), titleOf(point)].filter(Boolean).join("; ");
    return [title, axis.text(point[axis.key]), note, axis.key, point[axis.key]];
  };
  const original = done.find((point) => point.accuracy_original !== null)?.accuracy_original;
  const axis = (list, key) => list.find((each) => each.key === key);
  return figures([
    figure("best accuracy", axis(gains, "accuracy"), 1),
    original !== undefined && [
      "accuracy of the original",
      percents(original),
      "in floating point, with no option of the sweep",
      "accuracy_original",
      original,
    ],
    figure("best agreement", axis(gains, "agreement"), 1),
    !axis(gains, "accuracy") && figure("best worst-layer SQNR", axis(gains, "sqnr_db"), 1),
    figure("least energy a sample", axis(costs, "energy_mj"), -1),
    figure("least latency", axis(costs, "latency_us"), -1),
    figure("fewest cores", axis(costs, "cores"), -1),
  ]);
}

function wayColumns() {
  const figure = (axis) => ({
    title: shortOf(axis),
    hint: axis.title,
    value: (point) => point[axis.key],
    text: (point) => {
      const range = rangeOf(point, axis);
      return html("span", {}, axis.text(point[axis.key]), range && html("small", {}, range));
    },
    numeric: true,
  });
  const number = (point) => points.indexOf(point) + 1;
  return [
    {
      title: "way",
      value: number,
      text: (point) => {
        const page = pages[points.indexOf(point)];
        return html(
          "span",
          { class: "way-cell" },
          html("span", { class: "front-mark", "aria-hidden": "true" }, "◆"),
          page
            ? html("a", { href: page, "aria-label": `page of way ${number(point)}: ${titleOf(point)}` }, `${number(point)}`)
            : String(number(point)),
          point.error !== null && html("span", { class: "bad" }, " failed"),
          html("span", { class: "unseen" }, frontNow().includes(points.indexOf(point)) ? ", on the front" : ""),
        );
      },
    },
    ...options.map((option) => ({
      title: option,
      value: (point) => (Number.isNaN(Number(point.choices[option])) ? point.choices[option] : Number(point.choices[option])),
      text: (point) => point.choices[option],
    })),
    ...gains.map(figure),
    ...costs.map(figure),
    points.some((point) => point.fits !== null || point.error !== null) && {
      title: "fits",
      value: (point) => (point.error !== null ? "failed" : point.fits === null ? null : point.fits ? "yes" : "no"),
      text: (point) =>
        point.error !== null
          ? html("span", { class: "bad" }, "failed")
          : point.fits
            ? "yes"
            : html("span", { class: "bad" }, "no"),
    },
    measured({ key: "saturated" }) && {
      title: "saturated",
      hint: "values that were clipped, in all samples",
      value: (point) => point.saturated,
      text: (point) => whole(point.saturated),
      numeric: true,
    },
  ].filter(Boolean);
}

function sweepLegend() {
  const other = shapeOption();
  const key = (hue, shape, text) =>
    html(
      "span",
      {},
      svg(
        "svg",
        { width: 16, height: 16, viewBox: "0 0 16 16", "aria-hidden": "true", class: "pareto key" },
        svg("g", { class: hue === null ? "way best plain" : "way best", style: { "--hue": hue ?? 0 } }, mark(shape, 8, 8, 6)),
      ),
      ` ${text}`,
    );
  return html(
    "div",
    { class: "legend" },
    valuesOf(state.colour).map((value, index) =>
      key(POINT_HUES[index % POINT_HUES.length], other ? "circle" : SHAPES[0], `${state.colour} ${value}`),
    ),
    other &&
      valuesOf(other).map((value, index) => key(null, SHAPES[index % SHAPES.length], `${other} ${value}`)),
    html(
      "span",
      {},
      svg(
        "svg",
        { width: 26, height: 12, "aria-hidden": "true", class: "pareto key" },
        svg("path", { d: "M1 10H9V4H25", class: "front" }),
      ),
      " Pareto front: no other way is better in one and as good in the other",
    ),
    done.some((point) => point.fits === false) && html("span", {}, "dashed: does not fit the chip"),
  );
}

function sweepView() {
  const plot = html("div", { class: "plot" }),
    legend = html("div"),
    said = html("p", { class: "told", "aria-live": "polite" });
  const table = sortable(wayColumns(), points, {
    class: "ways",
    row: (point) => {
      const index = points.indexOf(point);
      return { "data-index": index, class: frontNow().includes(index) ? "front" : null };
    },
  });
  table.setAttribute("tabindex", "0");
  table.setAttribute("role", "group");
  table.setAttribute("aria-label", "all ways, a row each");
  function draw() {
    const y = gains.find((axis) => axis.key === state.gain),
      x = costs.find((axis) => axis.key === state.cost);
    const front = frontNow();
    for (const row of table.querySelectorAll("tbody tr")) {
      const best = front.includes(Number(row.dataset.index));
      row.classList.toggle("front", best);
      row.querySelector(".unseen").textContent = best ? ", on the front" : "";
    }
    if (!x || !y) {
      plot.replaceChildren(
        empty("Nothing was measured that could be plotted.", "resformer-compile MODEL --sweep … --input X.npy --report FILE.html"),
      );
      return;
    }
    const best = `${counted(front.length, "way")} of ${whole(done.length)} ${front.length === 1 ? "is" : "are"} on the Pareto front of ${y.title} and ${x.title}: ${front.map((index) => titleOf(points[index])).join("; ")}.`;
    said.textContent = front.length ? best : "No way fits the chip.";
    plot.replaceChildren(
      paretoPlot({
        points,
        pages,
        x,
        y,
        front,
        look,
        intervals: state.intervals === "shown",
        original: y.key === "accuracy" ? done.find((each) => each.accuracy_original !== null)?.accuracy_original : null,
        title: `${y.title} against ${x.title}. ${best}`,
      }),
    );
    legend.replaceChildren(sweepLegend());
  }
  const choose = (title, key, list) =>
    list.length > 1 &&
    choice(title, `sweep-${key}`, list, state[key], (value) => {
      state[key] = value;
      draw();
    });
  const axisKeys = (axes) => axes.map((axis) => [axis.key, shortOf(axis), axis.title]);
  draw();
  // a way under the pointer, or in focus, is marked in both
  const view = html(
    "div",
    { class: "sweep-view" },
    html(
      "div",
      { class: "choices" },
      choose("Up", "gain", axisKeys(gains)),
      choose("Across", "cost", axisKeys(costs)),
      choose("Colour", "colour", varied.map((option) => [option, option])),
      choose("Intervals", "intervals", [
        ["shown", "shown", "between what a figure lies: of costs by the chip's constants, of shares with 95 % for other samples of their kind"],
        ["hidden", "hidden"],
      ]),
    ),
    said,
    html("div", { class: "beside-table" }, html("div", {}, plot, legend), table),
  );
  const point = (event) => {
    const index = event.target instanceof Element ? event.target.closest("[data-index]")?.dataset.index : undefined;
    for (const each of view.querySelectorAll("[data-index]"))
      each.classList.toggle("hot", event.type !== "focusout" && each.dataset.index === index);
  };
  for (const kind of ["pointerover", "focusin", "focusout"]) view.addEventListener(kind, point);
  return view;
}

function sweepToKnow() {
  const lines = [
    ...points.filter((point) => point.error !== null).map((point) => ["failed", `${titleOf(point)}: ${point.error}`]),
    ...told.warnings.map((line) => ["warning", line]),
    ...told.notes.map((line) => ["note", line]),
  ];
  return (
    lines.length > 0 &&
    html(
      "ul",
      { class: "lines", id: "to-know" },
      lines.map(([kind, line]) =>
        html(
          "li",
          {},
          html("span", { class: kind === "note" ? "soft" : "bad" }, kind),
          html("span", {}, line),
        ),
      ),
    )
  );
}

const samples = done.find((point) => point.samples !== null)?.samples;
const varies = options.map((option) => `${option} ${valuesOf(option).join(", ")}`).join("; ");
const toKnow = sweepToKnow();
document.getElementById("page").classList.add("sweep");
document.getElementById("page").append(
  ...frame(
    "sweep",
    sweep.model,
    `${counted(points.length, "way")}: ${varies}. ${samples ? `Each on ${counted(samples, "sample")} of ${sweep.input}, in sim.` : "No samples were run: --input X.npy gives accuracy and costs."}`,
    sweepFigures(),
    [
      section(
        "ways",
        "What is gained, and what it costs",
        "A mark is a way to compile the network, and leads to its own page. A click on a heading of the table sorts.",
        sweepView(),
      ),
      toKnow && section("know", "To know", null, toKnow),
    ].filter(Boolean),
    version,
  )
    .flat(3)
    .filter(Boolean),
);
document.body.append(tip);
