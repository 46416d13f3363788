// What rounding did to each layer.

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
