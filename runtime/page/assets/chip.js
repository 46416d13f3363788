// Cores on chips, what fills them, energy and time.

const CHIPS_DRAWN = 96;

// An optimised layout beside the one with the fewest cores, at one activity.
function layouts(layout) {
  const interval = ([low, high], text) => (low === high ? "" : ` (${text(low)} to ${text(high)})`);
  const told = ({ cores, chips, ...each }) =>
    `${counted(cores, "core")}, ${counted(chips, "chip")}; a step of ${duration(each.step_ns)}${interval(each.step_ns_between, duration)}; ` +
    `${energy(each.energy_mj * 1e9)}${interval(each.energy_mj_between.map((mj) => mj * 1e9), energy)} a sample`;
  const isTime = layout.goal === "time";
  const least = isTime ? `a step of ${duration(layout.least)}` : `${energy(layout.least * 1e9)} a sample`;
  const figure = isTime ? "step_ns" : "energy_mj";
  const gap = layout.chosen[figure] / layout.least - 1;
  return html("div", {}, [
    html("h3", {}, "Layouts ", html("small", {}, `activity ${layout.activity}; seed ${layout.seed}`)),
    html("ul", {}, [
      html("li", {}, `Fewest cores: ${told(layout.default)}.`),
      html("li", {}, `For ${layout.goal}, as built: ${told(layout.chosen)}.`),
      html(
        "li",
        {},
        `No layout of at most ${counted(layout.cores_allowed, "core")} goes below ${least}: this one is ${(100 * gap).toFixed(1)} % above.`,
      ),
    ]),
  ]);
}

function chipMap(view) {
  const { placement, cost } = view.build;
  if (!placement)
    return empty(
      "Not placed: this build was compiled with --chip none.",
      "resformer-compile MODEL --target sim --chip loihi2 -o BUILD",
    );
  const perChip = placement.chip_cores.length;
  const limit = placement.chip.constants.neurons_per_core.value;
  const owners = [];
  for (const layer of placement.layers)
    layer.filled.forEach((neurons, index) => (owners[layer.sites[index]] = { layer, neurons }));
  const chips = Math.ceil(owners.length / perChip);
  const slots = 1 + Math.max(...placement.chip_cores.map((core) => core[2])),
    across = Math.ceil(Math.sqrt(slots));
  const columns = 1 + Math.max(...placement.chip_cores.map((core) => core[0])),
    rows = 1 + Math.max(...placement.chip_cores.map((core) => core[1]));
  const size = chips === 1 ? 30 : chips <= 4 ? 17 : chips <= 24 ? 9 : 6,
    gap = size > 12 ? 5 : 2;
  const tile = across * size + gap,
    width = columns * tile,
    height = rows * (Math.ceil(slots / across) * size + gap);
  const drawn = Array.from({ length: Math.min(chips, CHIPS_DRAWN) }, (_, chip) => {
    const cores = placement.chip_cores.map(([column, row, slot], index) => {
      const owner = owners[chip * perChip + index];
      const x = column * tile + (slot % across) * size,
        y = row * (Math.ceil(slots / across) * size + gap) + Math.floor(slot / across) * size,
        inner = size - (size > 12 ? 2 : 1);
      if (!owner)
        return svg("rect", {
          x,
          y,
          width: inner,
          height: inner,
          fill: "none",
          stroke: "var(--line)",
          "data-tip": `core ${index} is free`,
        });
      const part = Math.min(owner.neurons / limit, 1),
        high = Math.max(inner * part, 1),
        colour = view.colour(owner.layer.name);
      return svg(
        "g",
        {
          class: "layer",
          "data-layer": owner.layer.name,
          "data-tip": `${owner.layer.name}\ncore ${index} of chip ${chip}: ${whole(owner.neurons)} neurons, ${percent(part, 2)} of what it holds\nbound by ${owner.layer.bound}, ${percent(owner.layer.utilization[owner.layer.bound], 2)} used`,
        },
        svg("rect", { x, y, width: inner, height: inner, fill: colour, "fill-opacity": 0.3 }),
        svg("rect", { x, y: y + inner - high, width: inner, height: high, fill: colour }),
      );
    });
    return html(
      "div",
      { class: "chip" },
      chips > 1 && html("div", { class: "soft", style: { "font-size": "11px" } }, `chip ${chip}`),
      drawing({ label: `cores of chip ${chip}`, width, height }, cores),
    );
  });
  const legend = html(
    "div",
    { class: "legend" },
    placement.layers.map((layer) =>
      html(
        "span",
        { "data-tip": `${layer.cores} cores, bound by ${layer.bound}`, class: "layer", "data-layer": layer.name },
        dot(view.colour(layer.name)),
        html("span", { class: "mono" }, layer.name),
      ),
    ),
  );
  const violations = placement.violations.length
    ? html(
        "ul",
        { class: "bad" },
        placement.violations.map((line) => html("li", {}, line)),
      )
    : null;
  return [
    violations,
    html(
      "div",
      { class: chips === 1 ? "beside" : null },
      html("div", { class: "wide" }, html("div", { class: "chips" }, drawn)),
      chips === 1 && legend,
    ),
    chips > CHIPS_DRAWN && caption(`The first ${CHIPS_DRAWN} of ${chips} chips.`),
    caption(
      `A square is a core, ${slots} to a tile of the mesh, filled to the part of the ${whole(limit)} neurons that it holds; outlines are free cores.`,
    ),
    chips > 1 && legend,
    placement.layout && layouts(cost?.layout ?? placement.layout),
    html(
      "h3",
      {},
      "What fills the cores ",
      html("small", {}, "the fullest core of each layer; what bounds the layer is outlined"),
    ),
    utilisation(view),
  ];
}

function utilisation(view) {
  const { layers } = view.build.placement;
  const resources = Object.keys(layers[0].utilization);
  const cell = Math.max(Math.min(Math.floor(990 / layers.length), 44), 8),
    left = 116,
    high = 20;
  const width = left + layers.length * cell + 4,
    height = resources.length * high + 27;
  return html(
    "div",
    { class: "wide" },
    drawing(
      { label: "utilisation of each resource", width, height },
      resources.map((resource, row) => [
        svg("text", { x: left - 8, y: row * high + 14, "text-anchor": "end", class: "soft" }, resource),
        layers.map((layer, column) => {
          const part = layer.utilization[resource],
            x = left + column * cell;
          return svg(
            "g",
            {
              class: "layer",
              "data-layer": layer.name,
              "data-tip": `${layer.name}\n${resource}: ${whole(layer.usage[resource])}, ${percent(part, 2)} of the limit${layer.bound === resource ? "\nbounds this layer" : ""}`,
            },
            svg("rect", {
              x: x + 1,
              y: row * high + 1,
              width: cell - 2,
              height: high - 2,
              fill: part > 1 ? "var(--bad)" : "var(--accent)",
              "fill-opacity": (0.05 + 0.75 * Math.min(part, 1)).toFixed(3),
              stroke: layer.bound === resource ? "var(--ink)" : "none",
              "stroke-width": 1.2,
            }),
            cell > 30 &&
              svg(
                "text",
                {
                  x: x + cell / 2,
                  y: row * high + 14,
                  "text-anchor": "middle",
                  "font-size": 9.5,
                  style: { fill: part > 0.62 ? "var(--paper)" : "var(--ink)" },
                },
                Math.round(100 * part),
              ),
          );
        }),
      ]),
      keys(view, layers, left, cell, resources.length * high + 3),
    ),
  );
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
