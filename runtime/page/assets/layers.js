// The table of layers; what rounding did to each; where spikes differ.

function viewOf(build) {
  const { report, placement, cost, run, verification } = build;
  const colour = colours(report.nodes.filter((node) => !HIDDEN.has(node.op)));
  const nodes = new Map(report.nodes.map((node) => [node.name, node]));
  const size = (name) => nodes.get(name).shape.reduce((product, each) => product * each, 1);
  const rates = run
    ? new Map(Object.entries(run.rates))
    : cost
      ? new Map(Object.entries(cost.spikes).map(([name, steps]) => [name, steps.map((each) => each / size(name))]))
      : new Map();
  const view = {
    build,
    nodes,
    rates,
    size,
    colour: (name) => colour.get(name) ?? "var(--faint)",
    rate: (name) => (rates.has(name) ? mean(rates.get(name)) : null),
  };
  view.layers = layersOf(view);
  view.verified = verification ? new Map(verification.layers.map((layer) => [layer.name, layer])) : new Map();
  return view;
}

// The width of a node's weights, if it has any; recurrent neurons' are those of their own synapses.
const widthOf = (node) => node.weight_bits ?? node.recurrent?.weight_bits;

// What weights share, in words: "exponent 0", or "exponents 0 to 2".
const exponentsOf = ({ weight_exp: [least, most] }) =>
  least === most ? `exponent ${least}` : `exponents ${least} to ${most}`;

// Of all weights, whatever width was asked for: "8", or "4 to 9"; null of a network without any.
function widths(report) {
  const found = report.nodes.map(widthOf).filter(Boolean);
  if (!found.length) return null;
  const least = Math.min(...found),
    most = Math.max(...found);
  return least === most ? String(most) : `${least} to ${most}`;
}

// Where the network was placed or cost, its populations; else its program's neurons.
function layersOf(view) {
  const { report, placement, cost } = view.build;
  const placed = new Map((placement?.layers ?? []).map((layer) => [layer.name, layer]));
  const costs = new Map((cost?.layers ?? []).map((layer) => [layer.name, layer]));
  const names = placed.size
    ? [...placed.keys()]
    : costs.size
      ? [...costs.keys()]
      : report.nodes.filter((node) => "may_saturate" in node).map((node) => node.name);
  const counted = new Set();
  return names.map((name, index) => {
    const node = view.nodes.get(name),
      place = placed.get(name),
      charge = costs.get(name);
    // recurrent neurons have synapses of their own
    const synapses = [...new Set([...(place?.synapses ?? node.inputs), name])]
      .map((each) => view.nodes.get(each))
      .filter(Boolean);
    // copied into several populations, a layer's operations are counted once
    const own = synapses.filter((each) => cost && each.name in cost.sops && !counted.has(each.name));
    own.forEach((each) => counted.add(each.name));
    const errors = synapses.map((each) => each.sqnr_db).filter((each) => each !== null && each !== undefined);
    const bits = synapses.map(widthOf).filter(Boolean);
    return {
      name,
      index,
      node,
      place,
      charge,
      neurons: place?.neurons ?? view.size(name),
      kind: place?.kind ?? OP_WORDS[node.op] ?? node.op,
      bits: bits.length ? Math.max(...bits) : null,
      sqnr: errors.length ? Math.min(...errors) : null,
      firing: view.rate(place?.nodes.find((each) => view.rates.has(each)) ?? name),
      sops: own.length ? sum(own.map((each) => sum(cost.sops[each.name]))) : null,
      energy: charge ? charge.synapses_pj + charge.neurons_pj + charge.messages_pj : null,
    };
  });
}

function layerTable(view) {
  const total = (value, text) => (rows) => text(sum(rows.map((row) => value(row) ?? 0)));
  const columns = [
    { title: "#", value: (row) => row.index + 1, numeric: true },
    {
      title: "layer",
      value: (row) => row.name,
      text: (row) => [dot(view.colour(row.name)), html("span", { class: "mono" }, row.name)],
    },
    { title: "neurons are", value: (row) => row.kind },
    { title: "shape", value: (row) => times(row.place?.shape ?? row.node.shape) },
    {
      title: "neurons",
      value: (row) => row.neurons,
      text: (row) => whole(row.neurons),
      numeric: true,
      bar: true,
      total: total((row) => row.neurons, whole),
    },
    {
      title: "bits",
      value: (row) => row.bits,
      numeric: true,
      hint: "of the widest weights of the synapses into this layer",
    },
    {
      title: "SQNR, dB",
      value: (row) => row.sqnr,
      text: (row) => row.sqnr.toFixed(1),
      numeric: true,
      hint: "the ratio of its weights to their rounding errors; the worst of its synapses",
    },
  ];
  const { placement, cost } = view.build;
  if (view.rates.size)
    columns.push({
      title: "fires",
      value: (row) => row.firing,
      text: (row) => percent(row.firing),
      numeric: true,
      bar: true,
      hint: "the part of its neurons that fire at a step, on average",
    });
  if (placement) {
    columns.push(
      {
        title: "cores",
        value: (row) => row.place.cores,
        text: (row) => whole(row.place.cores),
        numeric: true,
        bar: true,
        total: total((row) => row.place.cores, whole),
      },
      {
        title: "bound by",
        value: (row) => row.place.bound,
        text: (row) => row.place.bound,
        hint: "the resource that alone would ask for the most cores",
      },
      {
        title: "used",
        value: (row) => row.place.utilization[row.place.bound],
        text: (row) => percent(row.place.utilization[row.place.bound], 2),
        numeric: true,
        hint: "of that resource, in the fullest core",
      },
    );
  }
  if (cost) {
    columns.push(
      {
        title: "SOPs",
        value: (row) => row.sops,
        text: (row) => scaled(row.sops),
        numeric: true,
        bar: true,
        total: total((row) => row.sops, scaled),
        hint: "synaptic operations of a sample, as the authors count them",
      },
      {
        title: "updates",
        value: (row) => row.charge?.updates,
        text: (row) => scaled(row.charge.updates),
        numeric: true,
        bar: true,
        total: total((row) => row.charge?.updates, scaled),
        hint: "neuron updates of a sample",
      },
      {
        title: "messages",
        value: (row) => row.charge?.messages,
        text: (row) => scaled(row.charge.messages),
        numeric: true,
        bar: true,
        total: total((row) => row.charge?.messages, scaled),
        hint: "spikes that arrive at its cores, of a sample",
      },
      {
        title: "energy",
        value: (row) => row.energy,
        text: (row) => energy(row.energy),
        numeric: true,
        bar: true,
        total: total((row) => row.energy, energy),
        hint: "dynamic, of a sample",
      },
      {
        title: "step",
        value: (row) => row.charge?.step_ns,
        text: (row) => duration(row.charge.step_ns),
        numeric: true,
        bar: true,
        hint: "what its busiest step takes",
      },
    );
  }
  return sortable(columns, view.layers, { class: "layers", row: (row) => ({ "data-layer": row.name }) });
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

function ticksUpTo(high, count = 4) {
  const rough = high / count,
    power = 10 ** Math.floor(Math.log10(rough || 1));
  const size = [1, 2, 2.5, 5, 10].map((each) => each * power).find((each) => each >= rough) ?? power;
  return Array.from({ length: Math.floor(high / size + 1e-9) + 1 }, (_, index) => index * size);
}

function quantization(view) {
  const nodes = view.build.report.nodes.filter((node) => node.sqnr_db !== null && node.sqnr_db !== undefined);
  if (!nodes.length) return empty("No layer's weights were rounded: all of them are exact in the program's integers.");
  const high = Math.ceil(Math.max(...nodes.map((node) => node.sqnr_db)) / 10) * 10;
  const low = Math.max(Math.floor((Math.min(...nodes.map((node) => node.sqnr_db)) - 4) / 5) * 5, -20);
  const ticks = Array.from({ length: Math.floor((high - low) / 5) + 1 }, (_, index) => low + 5 * index).filter(
    (tick) => tick % (high - low > 30 ? 10 : 5) === 0,
  );
  const by = new Map(nodes.map((node) => [node.name, node]));
  const figure = along(
    view,
    nodes.map((node) => node.name),
    {
      label: "signal to quantization noise of each layer's weights",
      low,
      high,
      ticks,
      unit: (tick) => `${tick} dB`,
      tip: (name) =>
        `${name}\n${by.get(name).sqnr_db} dB, ${by.get(name).weight_bits} bits, ${exponentsOf(by.get(name))}`,
      mark: (name, at) => [
        svg("path", {
          d: `M${at.x},${at.zero}V${at.y(by.get(name).sqnr_db)}`,
          stroke: view.colour(name),
          "stroke-width": 1.5,
        }),
        svg("circle", { cx: at.x, cy: at.y(by.get(name).sqnr_db), r: 4, fill: view.colour(name) }),
      ],
    },
  );
  const worst = [...nodes]
    .sort((left, right) => left.sqnr_db - right.sqnr_db)
    .slice(0, 3)
    .map((node) => `${node.name} ${node.sqnr_db.toFixed(1)} dB`);
  return [
    html(
      "h3",
      {},
      "Weights against their rounding errors ",
      html("small", {}, "higher is better; a bit is worth 6 dB"),
    ),
    figure,
    caption(`Most changed: ${worst.join(", ")}.`),
    currentErrors(view),
    localErrors(view),
  ];
}

// What resformer-verify --local found.
function currentErrors(view) {
  const local = view.build.verification?.local;
  if (!local) return null;
  const by = new Map(local.map((layer) => [layer.name, layer])),
    high = (Math.max(...local.map((layer) => layer.current.relative_error)) || 0.001) * 1.08;
  const worst = [...local]
    .sort((left, right) => left.rank - right.rank)
    .slice(0, 3)
    .map((layer) => `${layer.name} ${percent(layer.current.relative_error)}`);
  return [
    html(
      "h3",
      {},
      "Currents against the original's, layer by layer ",
      html(
        "small",
        {},
        "root mean square of the error over that of the current; each layer is fed the original's inputs",
      ),
    ),
    along(view, [...by.keys()], {
      label: "relative error of each layer's current",
      high,
      height: 160,
      ticks: ticksUpTo(high, 3),
      unit: (tick) => percent(tick, 2),
      tip: (name) => {
        const { current, spikes } = by.get(name);
        return `${name}\n${percent(current.relative_error)} of the current; at worst ${digits(current.worst_error)} thresholds${spikes ? `\n${percent(spikes.mismatched_share)} of its spikes differ` : ""}`;
      },
      mark: (name, at) =>
        svg("rect", {
          x: at.x - Math.min(at.step * 0.34, 14),
          width: Math.min(at.step * 0.68, 28),
          y: at.y(by.get(name).current.relative_error),
          height: at.zero - at.y(by.get(name).current.relative_error),
          fill: view.colour(name),
        }),
    }),
    caption(`The worst: ${worst.join(", ")}.`),
  ];
}

function localErrors(view) {
  const local = view.build.verification?.layers.filter((layer) => layer.local?.compared) ?? [];
  if (!local.length) return null;
  const share = new Map(local.map((layer) => [layer.name, layer.local.mismatched / layer.local.compared]));
  const high = Math.max(...share.values()) || 0.001;
  return [
    html(
      "h3",
      {},
      "Spikes that quantizing changes, layer by layer ",
      html("small", {}, "each layer is fed the checkpoint's own spikes, so no error comes from before it"),
    ),
    along(view, [...share.keys()], {
      label: "local mismatch of each layer",
      high: high * 1.08,
      height: 150,
      ticks: ticksUpTo(high * 1.08, 3),
      unit: (tick) => percent(tick, 2),
      tip: (name) => `${name}\n${percent(share.get(name))} of its spikes differ`,
      mark: (name, at) =>
        svg("rect", {
          x: at.x - Math.min(at.step * 0.34, 14),
          width: Math.min(at.step * 0.68, 28),
          y: at.y(share.get(name)),
          height: at.zero - at.y(share.get(name)),
          fill: view.colour(name),
        }),
    }),
  ];
}

const CHECKS = {
  float_graph_vs_torch: ["E1", "float graph = checkpoint"],
  backend_vs_program: ["E2", "backend = program"],
  backend_vs_quantized_torch: ["E3", "backend = quantized.pt"],
  quantized_vs_original: ["E4", "quantized ~ checkpoint"],
};

function mismatches(view) {
  const { verification } = view.build;
  if (!verification)
    return empty(
      "Not verified: nothing is known here of whether spikes are the same.",
      `resformer-verify ${view.build.name} --model MODEL --input X.npy --json R.json\nresformer-report ${view.build.name} --verify R.json -o report.html`,
    );
  const layers = verification.layers,
    rows = Object.entries(CHECKS)
      .filter(([key]) => verification.checks[key])
      .map(([key, [short, long]]) => ({
        short,
        long,
        demanded: verification.checks[key].demanded,
        of: (layer) => layer.checks[key],
      }));
  if (layers.some((layer) => layer.local))
    rows.push({
      short: "E4 local",
      long: "each layer fed the checkpoint's spikes",
      demanded: false,
      of: (layer) => layer.local,
    });
  const cell = Math.max(Math.min(Math.floor(1000 / layers.length), 46), 9),
    left = 66;
  const width = left + layers.length * cell + 4,
    height = rows.length * 30 + 28;
  const strength = (share) => (share ? Math.min(Math.max((Math.log10(share) + 5) / 4.3, 0.12), 1) : 0);
  const grid = drawing(
    { label: "mismatching spikes of each layer in each check", width, height },
    rows.map((row, index) => [
      svg(
        "text",
        { x: left - 10, y: index * 30 + 19, "text-anchor": "end", "font-weight": 600, "data-tip": row.long },
        row.short,
      ),
      layers.map((layer, at) => {
        const found = row.of(layer),
          share = found ? found.mismatched / found.compared : null;
        const x = left + at * cell,
          y = index * 30 + 2;
        return svg(
          "g",
          {
            class: "layer",
            "data-layer": layer.name,
            "data-tip": `${layer.name}\n${row.short}: ${row.long}\n${found ? `${whole(found.mismatched)} of ${whole(found.compared)} spikes differ (${percent(share)})` : "not compared"}`,
          },
          svg("rect", {
            x: x + 1,
            y,
            width: cell - 2,
            height: 26,
            rx: 2,
            fill: "var(--heat)",
            "fill-opacity": strength(share).toFixed(2),
            stroke: "var(--line)",
          }),
          share === 0 && svg("circle", { cx: x + cell / 2, cy: y + 13, r: 1.7, fill: "var(--good)" }),
          share > 0 &&
            cell > 38 &&
            svg(
              "text",
              { x: x + cell / 2, y: y + 17, "text-anchor": "middle", "font-size": 10 },
              percent(share, 2).replace(" %", ""),
            ),
        );
      }),
    ]),
    keys(view, layers, left, cell, rows.length * 30 + 4),
  );
  return [
    html("div", { class: "wide" }, grid),
    caption(
      "Columns are LIF populations from input to output. A dot: not one spike differs. Shades are logarithmic from 0.001 % to 50 %; numbers are percent. E1 to E3 must be without exception; E4 measures what quantizing changes.",
    ),
  ];
}
