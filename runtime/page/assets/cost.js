// Energy and time.

function costSections(view) {
  const { cost, name } = view.build;
  if (!cost)
    return empty(
      "No energy and no time: they follow from what a run does.",
      `resformer-report ${name} --input X.npy -o report.html`,
    );
  const { paper, energy_mj: total } = cost;
  const layers = view.layers.filter((layer) => layer.charge);
  const parts = layers.map((layer) => ({ name: layer.name, value: layer.energy, colour: view.colour(layer.name) }));
  const all = [...parts, { name: "static power", value: total.static * 1e9, colour: "var(--strong)" }];
  const constants = Object.entries(cost.chip.constants).filter(([key]) => /_(pj|ns)$|_mw_per_chip$/.test(key));
  const ranged = constants.filter(([, each]) => each.range).map(([key]) => key);
  const assumed = constants.filter(([, each]) => each.status === "assumed" && !each.range).map(([key]) => key);
  const sops = view.layers
    .filter((layer) => layer.sops !== null)
    .map((layer) => ({ name: layer.name, value: layer.sops, colour: view.colour(layer.name) }));
  return [
    figures([
      ["SOPs a sample", scaled(paper.sops, 4), "as the authors count them", "paper.sops", paper.sops],
      [
        "the paper's energy",
        energy(paper.energy_mj * 1e9, 4),
        "0.9 pJ a SOP, without the stem",
        "paper.energy_mj",
        paper.energy_mj,
      ],
      [
        "and with the stem",
        energy(paper.energy_with_stem_mj * 1e9, 4),
        `${scaled(paper.stem_macs)} MACs at 4.6 pJ`,
        "paper.energy_with_stem_mj",
        paper.energy_with_stem_mj,
      ],
      [
        `on ${cost.chip.name}`,
        energy(total.total * 1e9, 4),
        [
          between(cost.intervals.energy_mj.total, energy, 1e9),
          `${energy(total.dynamic * 1e9)} dynamic${between(cost.intervals.energy_mj.dynamic, energy, 1e9, ": ")}`,
          `${energy(total.static * 1e9)} static${between(cost.intervals.energy_mj.static, energy, 1e9, ": ")}`,
        ]
          .filter(Boolean)
          .join("; "),
        "energy_mj.total",
        total.total,
      ],
      ["power", watts(cost.power_mw), between(cost.intervals.power_mw, watts), "power_mw", cost.power_mw],
      [
        "a step takes",
        duration(cost.step_ns),
        [between(cost.intervals.step_ns, duration), "slowest part, longest way, barrier"].filter(Boolean).join("; "),
        "step_ns",
        cost.step_ns,
      ],
      [
        "from frame to logits",
        duration(1e3 * cost.latency_us),
        [
          between(cost.intervals.latency_us, duration, 1e3),
          `a sample every ${duration(1e3 * cost.interval_us)}${between(cost.intervals.interval_us, duration, 1e3, ": ")}`,
        ]
          .filter(Boolean)
          .join("; "),
        "latency_us",
        cost.latency_us,
      ],
    ]),
    ranged.length + assumed.length > 0 &&
      html(
        "p",
        { class: "caption warn" },
        [
          ranged.length > 0 && `The intervals come of the ranges of ${ranged.join(", ")}.`,
          assumed.length > 0 && `Assumed for ${cost.chip.name}, with no range known: ${assumed.join(", ")}.`,
          'Section "Where the numbers come from" says what each rests on.',
        ]
          .filter(Boolean)
          .join(" "),
      ),
    html("h3", {}, `Energy of a sample on ${cost.chip.name} `, html("small", {}, energy(total.total * 1e9))),
    stacked(view, all, sum(all.map((each) => each.value)), energy),
    html(
      "h3",
      {},
      "Synaptic operations ",
      html("small", {}, `${scaled(paper.sops)} a sample, by the population that receives them`),
    ),
    stacked(view, sops, sum(sops.map((each) => each.value)), scaled),
    html(
      "h3",
      {},
      "What the energy of each layer goes to ",
      html("small", {}, "synaptic operations, neuron updates, messages"),
    ),
    energyByKind(view, layers),
    html(
      "h3",
      {},
      "What a step of each layer takes ",
      html("small", {}, "all work at once; the slowest sets the pace of all"),
    ),
    stacked(
      view,
      layers.map((layer) => ({ name: layer.name, value: layer.charge.step_ns, colour: view.colour(layer.name) })),
      sum(layers.map((layer) => layer.charge.step_ns)),
      duration,
    ),
    stepTimes(view, layers),
    html(
      "h3",
      {},
      "A sample on its way ",
      html("small", {}, `${view.build.report.timesteps} steps in each layer; the next sample follows at once`),
    ),
    wavefront(view),
  ];
}

const KINDS = [
  ["synapses_pj", "operations", 1],
  ["neurons_pj", "updates", 0.6],
  ["messages_pj", "messages", 0.28],
];

function energyByKind(view, layers) {
  const high = Math.max(...layers.map((layer) => layer.energy)) * 1.06;
  const by = new Map(layers.map((layer) => [layer.name, layer]));
  return [
    along(view, [...by.keys()], {
      label: "energy of each layer",
      high,
      height: 190,
      ticks: ticksUpTo(high),
      unit: energy,
      tip: (name) =>
        `${name}: ${energy(by.get(name).energy)}\n${KINDS.map(([key, word]) => `${word} ${energy(by.get(name).charge[key])}`).join("\n")}`,
      mark: (name, at) => {
        const wide = Math.min(at.step * 0.72, 34);
        let base = 0;
        return KINDS.map(([key, , opacity]) => {
          const value = by.get(name).charge[key],
            rect = svg("rect", {
              x: at.x - wide / 2,
              width: wide,
              y: at.y(base + value),
              height: at.y(base) - at.y(base + value),
              fill: view.colour(name),
              "fill-opacity": opacity,
            });
          base += value;
          return rect;
        });
      },
    }),
    html(
      "div",
      { class: "legend" },
      KINDS.map(([, word, opacity]) =>
        html("span", {}, html("span", { class: "dot", style: { background: "var(--soft)", opacity } }), word),
      ),
    ),
  ];
}

// A core does all of its work at once: the longest of these is what its step takes.
const stepTip = (charge) =>
  `${charge.name}\n${duration(charge.step_ns)} at its busiest step, on ${charge.cores} cores\n${[
    ["operations", charge.synapses_ns],
    ["updates", charge.neurons_ns],
    ["messages in", charge.messages_in_ns],
    ["messages out", charge.messages_out_ns],
  ]
    .map(([word, time]) => `${word} ${duration(time)}`)
    .join("\n")}`;

function stepTimes(view, layers) {
  const { cost } = view.build,
    by = new Map(layers.map((layer) => [layer.name, layer.charge.step_ns]));
  const slowest = Math.max(...by.values()),
    barrier = cost.chip.constants.step_ns.value;
  const slow = [...by.entries()].find(([, value]) => value === slowest)[0];
  const worst = cost.steps.reduce((one, other) => (other.ns > one.ns ? other : one));
  return [
    along(view, [...by.keys()], {
      label: "time of a step of each layer",
      high: slowest * 1.08,
      height: 160,
      ticks: ticksUpTo(slowest * 1.08, 3),
      unit: duration,
      tip: (name) =>
        stepTip(layers.find((layer) => layer.name === name).charge),
      mark: (name, at) =>
        svg("rect", {
          x: at.x - Math.min(at.step * 0.36, 17),
          width: Math.min(at.step * 0.72, 34),
          y: at.y(by.get(name)),
          height: at.zero - at.y(by.get(name)),
          fill: view.colour(name),
          stroke: name === slow ? "var(--ink)" : "none",
        }),
    }),
    caption(
      `Steps: ${cost.steps.map((step) => duration(step.ns)).join(", ")}; the longest waits for the ${worst.term} of ${worst.layer}; ${duration(barrier)} of each for the barrier.`,
    ),
  ];
}

function wavefront(view) {
  const { report } = view.build,
    nodes = report.nodes.filter(
      (node) => !HIDDEN.has(node.op) && view.layers.some((layer) => layer.name === node.name),
    );
  const last = report.latency_steps + report.timesteps,
    width = 1140,
    left = 200,
    row = 11;
  const x = (step) => left + ((width - left - 10) * step) / last;
  const height = nodes.length * row + 24;
  return html(
    "div",
    { class: "wide" },
    drawing(
      { label: "when each layer works on one sample", width, height, class: "fit long" },
      ticksUpTo(last, 12)
        .filter(Number.isInteger)
        .map((step) => [
          svg("path", { class: "grid", d: `M${x(step)},0V${height - 18}` }),
          svg("text", { x: x(step), y: height - 5, "text-anchor": "middle", class: "faint" }, step),
        ]),
      nodes.map((node, index) =>
        svg(
          "g",
          {
            class: "layer",
            "data-layer": node.name,
            "data-tip": `${node.name}\nsteps ${node.offset} to ${node.offset + report.timesteps - 1}`,
          },
          svg(
            "text",
            { x: left - 8, y: index * row + 9, "text-anchor": "end", "font-size": 9, class: "soft" },
            clipped(node.name, 34),
          ),
          svg("rect", {
            x: x(node.offset),
            y: index * row + 1.5,
            width: x(node.offset + report.timesteps) - x(node.offset),
            height: row - 3,
            fill: view.colour(node.name),
          }),
        ),
      ),
    ),
  );
}
