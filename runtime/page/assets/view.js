// What all sections draw from: a build, its layers, and what is known of each.

const HIDDEN = new Set(["Delay", "Flatten"]);

const OP_WORDS = {
  Input: "pixels",
  Output: "logits",
  Conv2d: "convolution",
  Dense: "dense",
  SpikeMatMul: "product",
  SpikeAttention: "attention",
  SpikeGate: "gate",
  MaxPool2d: "max-pool",
  SumPool2d: "sum-pool",
  Relay: "relay",
  LIF: "LIF",
  CubaLIF: "CUBA LIF",
  RecurrentCubaLIF: "recurrent LIF",
  CubaLI: "readout",
};

const CHECKS = {
  float_graph_vs_torch: ["E1", "float graph = checkpoint"],
  backend_vs_program: ["E2", "backend = program"],
  backend_vs_quantized_torch: ["E3", "backend = quantized.pt"],
  quantized_vs_original: ["E4", "quantized ~ checkpoint"],
};

// A number of the page's own data, at a path from the build on; a test compares what is shown with the files.
function cited(build, path, text = String) {
  const value = path.split("/").reduce((each, key) => each[key], build);
  return html("span", { "data-path": path, "data-value": value }, text(value));
}

function viewOf(build) {
  const { report, placement, cost, run, verification } = build;
  const found = looks(report.nodes.filter((node) => !HIDDEN.has(node.op)));
  const unknown = { colour: "var(--faint)", pattern: "plain" };
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
    look: (name) => found.get(name) ?? unknown,
    colour: (name) => (found.get(name) ?? unknown).colour,
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

const sourceOf = (report) => report.source.file ?? report.source.module;

// What was chosen, in words: [name, value] of each.
const optionsOf = (report) =>
  Object.entries({
    ...report.options,
    resize: report.preprocessing.resize,
    mean: report.preprocessing.mean?.join(", ") ?? null,
    std: report.preprocessing.std?.join(", ") ?? null,
    classes: report.classes?.join(", ") ?? null,
  })
    .map(([name, value]) => [name.replaceAll("_", " "), optionText(value)])
    .filter(([, text]) => text);

// Widths by layer are an object, of layers that may be none.
function optionText(value) {
  if (value === null || typeof value !== "object") return value === null ? "" : String(value);
  return Object.entries(value)
    .map(([name, each]) => `${name}=${each}`)
    .join(", ");
}
