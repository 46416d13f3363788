// The network as the pipeline that it is: a strip a block, synapses and neurons from left to right, residual ways above.

const BOX = { width: 110, height: 56, gap: 18, row: 72, lane: 15 };

// Delays and reshapes become part of the edges that they lie on.
function visibleInputs(node, byName) {
  return node.inputs.map((name) => {
    let source = byName.get(name),
      delay = 0;
    while (HIDDEN.has(source.op)) {
      delay += source.op === "Delay" ? 1 : 0;
      source = byName.get(source.inputs[0]);
    }
    return { source: source.name, delayed: delay > 0 };
  });
}

function blockTitle(names, byName) {
  const ops = names.map((name) => byName.get(name).op);
  if (ops.includes("SpikeMatMul")) return "spiking attention (DSSA)";
  if (names.some((name) => name.includes(".up."))) return "feed-forward (GWFFN)";
  if (/^layers\.\d+\.0$/.test(groupOf(names[0])) && ops.includes("Conv2d")) return "downsampling";
  return "";
}

function pipeline(view) {
  const byName = new Map(view.build.report.nodes.map((node) => [node.name, node]));
  const nodes = view.build.report.nodes.filter((node) => !HIDDEN.has(node.op));
  const strips = [];
  for (const node of nodes) {
    const group = groupOf(node.name),
      last = strips.at(-1);
    // single layers before and after the blocks share a strip, and long chains are broken
    const joins =
      last &&
      (last.group === group || (!last.blocks && !/^layers\./.test(node.name))) &&
      last.names.length < (last.blocks ? 14 : 8);
    if (joins) last.names.push(node.name);
    else strips.push({ group, blocks: /^layers\.\d+\.\d+/.test(group), names: [node.name] });
  }
  return strips.map((strip) => drawStrip(view, strip, byName));
}

function drawStrip(view, strip, byName) {
  const inside = new Set(strip.names),
    column = new Map(),
    row = new Map(),
    taken = new Set();
  const inputs = new Map(strip.names.map((name) => [name, visibleInputs(byName.get(name), byName)]));
  for (const name of strip.names) {
    const before = inputs.get(name).filter((each) => inside.has(each.source));
    column.set(name, before.length ? Math.max(...before.map((each) => column.get(each.source))) + 1 : 0);
    let place = before.length ? Math.min(...before.map((each) => row.get(each.source))) : 0;
    while (taken.has(`${column.get(name)},${place}`)) place += 1;
    taken.add(`${column.get(name)},${place}`);
    row.set(name, place);
  }
  const small = (name) => byName.get(name).op === "Add";
  const columns = Math.max(...column.values()) + 1;
  const widths = Array.from({ length: columns }, (_, index) =>
    strip.names.every((name) => column.get(name) !== index || small(name)) ? 26 : BOX.width,
  );
  const lefts = widths.map((_, index) => 22 + sum(widths.slice(0, index)) + index * BOX.gap);

  // ways that skip columns run in lanes above the boxes
  const lanes = [];
  const lane = (from, to) => {
    let index = lanes.findIndex((spans) => spans.every(([start, end]) => to <= start || from >= end));
    if (index < 0) index = lanes.push([]) - 1;
    lanes[index].push([from, to]);
    return index;
  };
  const ways = [];
  for (const name of strip.names) {
    for (const { source, delayed } of inputs.get(name)) {
      const from = inside.has(source) ? column.get(source) : -1,
        to = column.get(name);
      const skips = to - from > 1 && !(inside.has(source) && row.get(source) > row.get(name));
      ways.push({
        source,
        name,
        from,
        to,
        delayed,
        kind: byName.get(source).signal.kind,
        lane: skips ? lane(from, to) : null,
      });
    }
  }
  const leaving = new Set();
  for (const node of byName.values()) {
    if (HIDDEN.has(node.op) || inside.has(node.name)) continue;
    for (const { source } of visibleInputs(node, byName)) if (inside.has(source)) leaving.add(source);
  }
  for (const name of leaving) {
    const skips = columns - column.get(name) > 1 || row.get(name) > 0;
    ways.push({
      source: name,
      name: null,
      from: column.get(name),
      to: columns,
      delayed: false,
      kind: byName.get(name).signal.kind,
      lane: skips ? lane(column.get(name), columns) : null,
    });
  }

  const top = 8 + lanes.length * BOX.lane;
  const rows = Math.max(...row.values()) + 1;
  const width = lefts.at(-1) + widths.at(-1) + 24,
    height = top + rows * BOX.row - 10;
  const middle = (name) => top + row.get(name) * BOX.row + BOX.height / 2;
  const start = (name) => lefts[column.get(name)] + (small(name) ? 13 + 11 : widths[column.get(name)]);
  const end = (name) => lefts[column.get(name)] + (small(name) ? 2 : 0);
  const drawn = ways.map((way) => {
    const x0 = way.from < 0 ? 2 : start(way.source),
      y0 = way.from < 0 ? top + BOX.height / 2 : middle(way.source);
    const x1 = way.name === null ? width - 3 : end(way.name),
      y1 = way.name === null ? top + BOX.height / 2 : middle(way.name);
    const high = top - 6 - way.lane * BOX.lane;
    let path;
    if (way.lane === null) {
      path =
        y0 === y1
          ? `M${x0},${y0}H${x1 - 4}`
          : `M${x0},${y0}H${x1 - BOX.gap + 2}Q${x1 - BOX.gap / 2},${y0} ${x1 - BOX.gap / 2},${y0 + Math.sign(y1 - y0) * 6}V${y1 - Math.sign(y1 - y0) * 6}Q${x1 - BOX.gap / 2},${y1} ${x1 - 4},${y1}`;
    } else {
      const up = way.from < 0 ? 8 : x0 + 4,
        down = way.name === null ? width - 9 : small(way.name) ? end(way.name) + 11 : x1 - 7;
      const foot =
        way.name !== null && small(way.name)
          ? `V${y1 - 15}`
          : way.name === null
            ? `V${y1 - 6}Q${down},${y1} ${x1 - 1},${y1}`
            : `V${y1 - 6}Q${down},${y1} ${x1 - 2},${y1}`;
      path = `M${x0},${y0}Q${up},${y0} ${up},${y0 - 6}V${high + 6}Q${up},${high} ${up + 6},${high}H${down - 6}Q${down},${high} ${down},${high + 6}${foot}`;
    }
    const tipText = `${way.source} → ${way.name ?? "further on"}\n${way.kind}${way.delayed ? ", delayed until the other branch arrives" : ""}`;
    return svg("path", {
      d: path,
      class: `way ${way.kind}`,
      fill: "none",
      stroke: "var(--soft)",
      "stroke-width": way.kind === "spike" ? 1 : 1.9,
      "stroke-dasharray": way.kind === "current" ? "4 2.5" : null,
      "marker-end": "url(#arrow)",
      "data-tip": tipText,
    });
  });
  const boxes = strip.names.map((name) =>
    drawNode(view, byName.get(name), lefts[column.get(name)], top + row.get(name) * BOX.row, small(name)),
  );
  const title = strip.blocks
    ? [html("span", { class: "mono" }, strip.group), ` ${blockTitle(strip.names, byName)}`]
    : [
        html(
          "span",
          { class: "mono" },
          strip.names.length > 1 ? `${strip.names[0]} … ${strip.names.at(-1)}` : strip.names[0],
        ),
      ];
  return html(
    "div",
    { class: "strip" },
    html("div", { class: "title" }, title),
    html(
      "div",
      { class: "wide" },
      drawing({ label: `pipeline of ${strip.names.join(", ")}`, width, height }, drawn, boxes),
    ),
  );
}

function drawNode(view, node, x, y, small) {
  const colour = view.colour(node.name),
    rate = view.rate(node.name);
  const facts = [
    node.name,
    `${node.op}, ${times(node.shape)}, from step ${node.offset}`,
    `${node.signal.kind}${node.signal.bits === null ? "" : `, ${node.signal.bits} bits`}, steps of ${power(-node.signal.scale_exp)}`,
  ];
  if (node.weight_bits)
    facts.push(
      `weights of ${node.weight_bits} bits, ${exponentsOf(node)}, ${whole(node.synapses)} synapses`,
    );
  if (node.part_of) facts.push(`stores ${node.stored_bits} bits of the weights of ${node.part_of}`);
  if (node.sqnr_db !== undefined && node.sqnr_db !== null) facts.push(`rounding: ${node.sqnr_db} dB`);
  if (rate !== null) facts.push(`fires ${percent(rate)} of the time`);
  const attributes = { class: "layer", "data-layer": node.name, "data-tip": facts.join("\n") };
  if (small) {
    const cx = x + 13,
      cy = y + BOX.height / 2;
    return svg(
      "g",
      attributes,
      svg("circle", { cx, cy, r: 11, fill: "var(--paper)", stroke: colour, "stroke-width": 1.6 }),
      svg("path", { d: `M${cx - 5},${cy}h10M${cx},${cy - 5}v10`, stroke: "var(--ink)", "stroke-width": 1.2 }),
    );
  }
  const neurons = rate !== null;
  const words =
    node.op === "Conv2d"
      ? (node.weight_bits ?? node.stored_bits)
        ? `${node.weight_bits ?? node.stored_bits}-bit conv`
        : "conv"
      : node.op === "Dense"
        ? `${node.weight_bits}-bit dense`
        : (OP_WORDS[node.op] ?? node.op);
  const bits =
    node.signal.kind === "spike" ? "spikes" : node.signal.bits === null ? node.signal.kind : `${node.signal.bits} bits`;
  return svg(
    "g",
    attributes,
    svg("rect", {
      x: x + 0.5,
      y: y + 0.5,
      width: BOX.width - 1,
      height: BOX.height - 1,
      rx: 3,
      fill: "var(--raised)",
      stroke: "var(--strong)",
    }),
    svg("rect", { x, y, width: 4, height: BOX.height, rx: 1.5, fill: colour }),
    svg("text", { x: x + 10, y: y + 15, "font-weight": 600, "font-size": 11 }, clipped(shortName(node.name), 17)),
    svg("text", { x: x + 10, y: y + 30, class: "soft" }, words),
    svg(
      "text",
      { x: x + BOX.width - 7, y: y + 30, class: "soft", "text-anchor": "end" },
      neurons ? percent(rate, 2) : bits,
    ),
    svg("text", { x: x + 10, y: y + 44, class: "faint", "font-size": 10.5 }, times(node.shape)),
    neurons &&
      svg("rect", { x: x + 10, y: y + BOX.height - 7, width: BOX.width - 17, height: 2.5, fill: "var(--line)" }),
    neurons &&
      svg("rect", {
        x: x + 10,
        y: y + BOX.height - 7,
        width: (BOX.width - 17) * Math.min(rate, 1),
        height: 2.5,
        fill: colour,
      }),
  );
}

// Defined once a page: arrows of all strips.
const arrows = () =>
  svg(
    "svg",
    { width: 0, height: 0, style: { position: "absolute" }, "aria-hidden": "true" },
    fills,
    svg(
      "defs",
      {},
      svg(
        "marker",
        {
          id: "arrow",
          viewBox: "0 0 6 6",
          refX: 5,
          refY: 3,
          markerWidth: 6,
          markerHeight: 6,
          markerUnits: "userSpaceOnUse",
          orient: "auto",
        },
        svg("path", { d: "M0,0L6,3L0,6Z", fill: "var(--soft)" }),
      ),
    ),
  );
