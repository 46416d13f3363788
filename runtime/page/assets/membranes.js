// Membrane traces: a neuron that the reader chooses, its current, potential and spikes at each step, the program's
// over the original's.

const WHY = {
  chosen: ["chosen", "named when the page was made"],
  differs: ["differs", "the original's spikes are not the program's"],
  busiest: ["busiest", "fires most often"],
  nearest: ["near the threshold", "its potential comes nearest to the threshold without being shown already"],
  silent: ["silent", "never fires; of those, the nearest to its threshold"],
};
const TRACED = {
  width: 1000,
  left: 74,
  right: 16,
  spikes: 46,
  row: 20,
  potential: [112, 322],
  current: [362, 436],
  height: 466,
};

function membraneSections(view) {
  const traces = view.build.run?.membranes;
  if (!traces) return [];
  return [
    section(
      "membrane",
      "Membrane traces",
      traces.original
        ? "One neuron, step by step: the program in Loihi's arithmetic over the original in floating point. Each sample begins at rest; a potential above the threshold fires and is reset."
        : "One neuron, step by step, in Loihi's arithmetic. Each sample begins at rest; a potential above the threshold fires and is reset.",
      membraneViewer(view, traces),
    ),
  ];
}

function membraneViewer(view, traces) {
  const names = Object.keys(traces.layers);
  const differs = (name) => traces.layers[name].some((each) => each.why.includes("differs"));
  const wished = (name) => traces.layers[name].some((each) => each.why.includes("chosen"));
  const state = { name: names.find(wished) ?? names.find(differs) ?? names[0], neuron: 0, unit: "thresholds" };
  const chooser = html("div", { class: "chosen-neuron" });
  const picture = html("div", { class: "wide", tabindex: "0", role: "group", "aria-label": "membrane trace" });
  const told = html("p", { class: "told", "aria-live": "polite" });
  const numbers = html("div", { class: "wide", tabindex: "0", role: "group", "aria-label": "numbers of the trace" });
  const select = html(
    "select",
    {
      onchange: () => {
        state.name = select.value;
        state.neuron = 0;
        chooseNeuron();
        draw();
      },
    },
    names.map((name) =>
      html("option", { value: name, selected: name === state.name }, differs(name) ? `${name}  ≠` : name),
    ),
  );
  function chooseNeuron() {
    chooser.replaceChildren(
      choice(
        "Neuron",
        "membrane-neuron",
        traces.layers[state.name].map((each, index) => [
          String(index),
          [each.why.map((why) => WHY[why][0]).join(", "), html("small", {}, ` (${each.index.join(", ")})`)],
          each.why.map((why) => WHY[why][1]).join("; "),
        ]),
        String(state.neuron),
        (value) => {
          state.neuron = Number(value);
          draw();
        },
      ),
    );
  }
  function draw() {
    const steps = tracedSteps(view, traces, state);
    picture.replaceChildren(tracePicture(view, traces, state, steps));
    told.replaceChildren(traceInWords(traces, state, steps));
    numbers.replaceChildren(traceTable(traces, state, steps));
  }
  chooseNeuron();
  draw();
  return html(
    "div",
    { class: "membrane" },
    html(
      "div",
      { class: "choices" },
      html("label", { class: "choice" }, html("span", { class: "legend-text" }, "Population"), select),
      chooser,
      choice(
        "In",
        "membrane-unit",
        [
          ["thresholds", "thresholds", "real numbers: 1 is where the neuron fires"],
          ["integers", "Loihi's integers", "what the registers hold: 64 of them are one unit of the input"],
        ],
        state.unit,
        (value) => {
          state.unit = value;
          draw();
        },
      ),
    ),
    told,
    picture,
    traceLegend(traces),
    html("details", {}, html("summary", {}, "The numbers of this trace"), numbers),
    traces.layers[names[0]][0]?.real &&
      caption(
        "In thresholds, a network in SpikingJelly with v_threshold 1 and v_reset 0 is shown in its own numbers. A current is what a step adds to the potential that the step before has left and that has leaked.",
      ),
  );
}

// The steps of the chosen neuron: each value in the chosen unit, and as it is.
function tracedSteps(view, traces, { name, neuron, unit }) {
  const { integer, real } = traces.layers[name][neuron],
    { timesteps } = view.build.run;
  const threshold = unit === "integers" ? integer.threshold : 1;
  const of = (side) => {
    const factor = threshold / (side.threshold || 1);
    const values = (key) => side[key].map((each) => (side === integer && unit === "integers" ? each : each * factor));
    return { current: values("current"), potential: values("potential"), left: values("left"), spikes: side.spikes };
  };
  return {
    threshold,
    timesteps,
    count: integer.current.length,
    program: of(integer),
    original: real && of(real),
    differ: integer.spikes.map((fired, step) => Boolean(real) && fired !== real.spikes[step]),
  };
}

const inUnit = (value, unit) => (unit === "integers" ? whole(value) : value.toFixed(3));

function traceInWords(traces, { name, neuron }, steps) {
  const { index } = traces.layers[name][neuron];
  const fired = sum(steps.program.spikes);
  const words = `Neuron (${index.join(", ")}) of ${name}: the program fires ${counted(fired, "time")} in ${counted(steps.count, "step")}`;
  if (!steps.original) return `${words}.`;
  const differ = sum(steps.differ.map(Number));
  return `${words}, the original ${counted(sum(steps.original.spikes), "time")}; ${differ ? `they differ in ${counted(differ, "step")}` : "they agree in every step"}.`;
}

function tracePicture(view, traces, state, steps) {
  const { width, left, right, height } = TRACED,
    { program, original, count, timesteps, threshold } = steps;
  const slot = (width - left - right) / count,
    middle = (step) => left + (step + 0.5) * slot;
  const sides = [original, program].filter(Boolean);
  const range = (values, [top, bottom], ends) => {
    let low = Math.min(...ends, ...values),
      high = Math.max(...ends, ...values);
    const room = 0.06 * (high - low || 1);
    if (low < 0) low -= room;
    high += room;
    return { low, high, y: (value) => bottom - ((bottom - top) * (value - low)) / (high - low) };
  };
  const potential = range(
    sides.flatMap((side) => [...side.potential, ...side.left]),
    TRACED.potential,
    [0, threshold],
  );
  const current = range(sides.flatMap((side) => side.current), TRACED.current, [0]);
  const label = (text, y) => svg("text", { x: 0, y, class: "lane" }, text);
  const axis = ({ low, high, y }, wanted) =>
    ticks(low, high, wanted).map((value) => [
      svg("line", { x1: left, x2: width - right, y1: y(value), y2: y(value), class: "grid" }),
      svg(
        "text",
        { x: left - 6, y: y(value) + 4, "text-anchor": "end", class: "soft" },
        state.unit === "integers" ? scaled(value) : digits(value, Math.abs(value) < 1 ? 2 : 3),
      ),
    ]);
  const blocks = Array.from({ length: count / timesteps }, (_, sample) => {
    const x = left + sample * timesteps * slot;
    const { predictions, labels } = view.build.run,
      named = (each) => view.build.report.classes?.[each] ?? each;
    const wide = timesteps * slot > 120;
    const known = wide && predictions?.[sample] !== undefined ? `: class ${named(predictions[sample])}` : "";
    const truth = wide && known && labels?.[sample] !== undefined ? ` (is ${named(labels[sample])})` : "";
    return [
      svg("rect", {
        x,
        y: 20,
        width: timesteps * slot,
        height: TRACED.current[1] - 20,
        class: sample % 2 ? "block odd" : "block",
      }),
      svg("text", { x: x + 4, y: 14, class: "soft" }, `sample ${sample}${known}${truth}`),
    ];
  });
  const path = (side) => {
    const parts = [];
    for (let step = 0; step < count; step += 1) {
      const x = middle(step).toFixed(2);
      if (step % timesteps === 0)
        parts.push(`M${(left + step * slot).toFixed(2)} ${potential.y(0).toFixed(2)}`);
      parts.push(`L${x} ${potential.y(side.potential[step]).toFixed(2)}`);
      if (side.left[step] !== side.potential[step]) parts.push(`L${x} ${potential.y(side.left[step]).toFixed(2)}`);
      if ((step + 1) % timesteps === 0)
        parts.push(`L${(left + (step + 1) * slot).toFixed(2)} ${potential.y(side.left[step]).toFixed(2)}`);
    }
    return parts.join("");
  };
  const rows = [original && ["original", original, "real"], ["program", program, "whole"]].filter(Boolean);
  const spikes = rows.map(([name, side, look], row) => {
    const y = TRACED.spikes - 18 + row * TRACED.row;
    return [
      svg("text", { x: left - 6, y: y + 12, "text-anchor": "end", class: "soft" }, name),
      side.spikes.map(
        (fired, step) =>
          fired > 0 &&
          svg("rect", { x: middle(step) - 1.75, y, width: 3.5, height: 16, class: `spike ${look}` }),
      ),
    ];
  });
  const bars = rows.map(([, side, look]) => {
    const size = look === "real" ? Math.min(0.62 * slot, 22) : Math.min(0.26 * slot, 9);
    return side.current.map((value, step) => {
      const [from, to] = [current.y(0), current.y(value)];
      return svg("rect", {
        x: middle(step) - size / 2,
        y: Math.min(from, to),
        width: size,
        height: Math.max(Math.abs(to - from), 0.8),
        class: `bar ${look}`,
      });
    });
  });
  const limit = potential.y(threshold);
  const every = Math.ceil(count / 48);
  return drawing(
    {
      label: `${traceInWords(traces, state, steps)} The figures are in the table below.`,
      width,
      height,
      class: "fit long trace",
    },
    blocks,
    steps.differ.map(
      (differ, step) =>
        differ &&
        svg("g", {}, [
          svg("rect", {
            x: left + step * slot,
            y: 20,
            width: slot,
            height: TRACED.current[1] - 20,
            class: "differ",
          }),
          svg("text", { x: middle(step), y: TRACED.spikes + 2 * TRACED.row, "text-anchor": "middle", class: "sign" }, "≠"),
        ]),
    ),
    label("spikes", TRACED.spikes - 20),
    spikes,
    label(state.unit === "integers" ? "potential v, in 1/64" : "potential, in thresholds", TRACED.potential[0] - 12),
    axis(potential, 5),
    svg("line", { x1: left, x2: width - right, y1: potential.y(0), y2: potential.y(0), class: "axis" }),
    original && svg("path", { d: path(original), class: "line real" }),
    svg("path", { d: path(program), class: "line whole" }),
    program.potential.map((value, step) =>
      svg("circle", { cx: middle(step), cy: potential.y(value), r: 2.6, class: "point whole" }),
    ),
    svg("line", { x1: left, x2: width - right, y1: limit, y2: limit, class: "threshold" }),
    svg(
      "text",
      { x: width - right, y: limit - 5, "text-anchor": "end", class: "threshold-text" },
      state.unit === "integers" ? `threshold ${whole(threshold)}` : "threshold",
    ),
    label(state.unit === "integers" ? "current u + bias, in 1/64" : "current, in thresholds", TRACED.current[0] - 12),
    axis(current, 3),
    svg("line", { x1: left, x2: width - right, y1: current.y(0), y2: current.y(0), class: "axis" }),
    bars,
    program.current.map(
      (_, step) =>
        step % every === 0 &&
        svg(
          "text",
          { x: middle(step), y: TRACED.current[1] + 15, "text-anchor": "middle", class: "soft" },
          step % timesteps,
        ),
    ),
    svg("text", { x: left - 6, y: TRACED.current[1] + 15, "text-anchor": "end", class: "soft" }, "step"),
    program.current.map((_, step) =>
      svg("rect", {
        x: left + step * slot,
        y: 20,
        width: slot,
        height: TRACED.current[1] - 20,
        fill: "transparent",
        "data-tip": stepInWords(state, steps, step),
      }),
    ),
  );
}

function stepInWords({ unit }, { program, original, timesteps }, step) {
  const line = (name, side) =>
    `${name}: current ${inUnit(side.current[step], unit)}, potential ${inUnit(side.potential[step], unit)}${side.spikes[step] ? `, fires, ${inUnit(side.left[step], unit)} is left` : ""}`;
  return [
    `sample ${Math.floor(step / timesteps)}, step ${step % timesteps}`,
    line("program", program),
    original && line("original", original),
  ]
    .filter(Boolean)
    .join("\n");
}

function traceLegend(traces) {
  const line = (look, text) =>
    html(
      "span",
      {},
      svg(
        "svg",
        { width: 26, height: 12, "aria-hidden": "true", class: "trace" },
        svg("path", { d: "M1 6L25 6", class: `line ${look}` }),
        look === "whole" && svg("circle", { cx: 13, cy: 6, r: 2.6, class: "point whole" }),
      ),
      ` ${text}`,
    );
  return html(
    "div",
    { class: "legend" },
    line("whole", "program, integers"),
    traces.original && line("real", "original, floating point"),
    traces.original && html("span", {}, html("span", { class: "differ-key" }, "≠"), " a step where one of the two fires"),
  );
}

function traceTable(traces, { name, neuron, unit }, steps) {
  const sides = [["program", steps.program], steps.original && ["original", steps.original]].filter(Boolean);
  const columns = [
    ["current", "current"],
    ["potential", "potential"],
    ["left", "after firing"],
    ["spikes", "spikes"],
  ];
  const raw = { program: traces.layers[name][neuron].integer, original: traces.layers[name][neuron].real };
  return html(
    "table",
    { class: "trace-numbers" },
    html(
      "thead",
      {},
      html(
        "tr",
        {},
        html("th", { scope: "col" }, "sample"),
        html("th", { scope: "col" }, "step"),
        sides.map(([side]) => columns.map(([, title]) => html("th", { class: "n", scope: "col" }, `${side}, ${title}`))),
      ),
    ),
    html(
      "tbody",
      {},
      steps.program.current.map((_, step) =>
        html(
          "tr",
          { class: steps.differ[step] ? "differs" : null },
          html("td", {}, Math.floor(step / steps.timesteps)),
          html("td", {}, step % steps.timesteps),
          sides.map(([side, values]) =>
            columns.map(([key]) =>
              html(
                "td",
                { class: "n", "data-value": raw[side][key][step] },
                key === "spikes" ? values.spikes[step] : inUnit(values[key][step], unit),
              ),
            ),
          ),
        ),
      ),
    ),
  );
}
