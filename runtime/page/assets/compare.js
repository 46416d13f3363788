// Several builds beside each other: a table with differences from the first, and small multiples.

const minSqnr = (report) => {
  const found = report.nodes.map((node) => node.sqnr_db).filter((each) => each !== null && each !== undefined);
  return found.length ? Math.min(...found) : null;
};

const verdictOf = (verification) => (verification ? (verification.equivalent ? "equivalent" : "NOT EQUIVALENT") : null);

// {title, value(build), text(value), better: -1 lower, 1 higher, 0 neither}
const COMPARED = [
  { group: "choices", title: "weight bits", value: (build) => widths(build.report), better: 0 },
  { group: "choices", title: "steps a sample, T", value: (build) => build.report.timesteps, better: 0 },
  { group: "choices", title: "input", value: (build) => times(build.report.input.shape), better: 0 },
  { group: "choices", title: "chip", value: (build) => build.placement?.chip.name ?? null, better: 0 },
  { group: "quality", title: "verdict", value: (build) => verdictOf(build.verification), better: 0 },
  {
    group: "quality",
    title: "accuracy",
    value: (build) => build.verification?.accuracy.quantized ?? build.run?.accuracy ?? null,
    text: (value) => percent(value, 4),
    better: 1,
  },
  {
    group: "quality",
    title: "accuracy of the original",
    value: (build) => build.verification?.accuracy.original ?? null,
    text: (value) => percent(value, 4),
    better: 0,
  },
  {
    group: "quality",
    title: "top-1 agreement with the original",
    value: (build) => build.verification?.checks.quantized_vs_original?.top1_agreement ?? null,
    text: (value) => percent(value, 4),
    better: 1,
  },
  {
    group: "quality",
    title: "F1 of spikes against the original",
    value: (build) => build.verification?.checks.quantized_vs_original?.f1 ?? null,
    text: (value) => value.toFixed(4),
    better: 1,
  },
  {
    group: "quality",
    title: "worst SQNR of weights, dB",
    value: (build) => minSqnr(build.report),
    text: (value) => value.toFixed(1),
    better: 1,
    unit: "dB",
  },
  { group: "size", title: "parameters", value: (build) => build.report.totals.parameters, text: whole, better: -1 },
  { group: "size", title: "LIF neurons", value: (build) => build.report.totals.neurons, text: whole, better: -1 },
  { group: "size", title: "synapses", value: (build) => build.report.totals.synapses, text: whole, better: -1 },
  { group: "size", title: "cores", value: (build) => build.report.placement?.cores ?? null, text: whole, better: -1 },
  { group: "size", title: "chips", value: (build) => build.report.placement?.chips ?? null, text: whole, better: -1 },
  {
    group: "a sample",
    title: "mean firing rate",
    value: (build) => (build.run ? mean(Object.values(build.run.rates).map(mean)) : null),
    text: (value) => percent(value),
    better: -1,
  },
  {
    group: "a sample",
    title: "SOPs",
    value: (build) => build.cost?.paper.sops ?? null,
    text: (value) => scaled(value, 4),
    better: -1,
  },
  {
    group: "a sample",
    title: "the paper's energy",
    value: (build) => build.cost?.paper.energy_mj ?? null,
    text: (value) => energy(value * 1e9),
    better: -1,
  },
  {
    group: "a sample",
    title: "energy on the chip",
    value: (build) => build.cost?.energy_mj.total ?? null,
    text: (value) => energy(value * 1e9),
    better: -1,
  },
  {
    group: "a sample",
    title: "latency on the chip",
    value: (build) => build.cost?.latency_us ?? null,
    text: (value) => duration(value * 1e3),
    better: -1,
  },
  {
    group: "a sample",
    title: "time between samples",
    value: (build) => build.cost?.interval_us ?? null,
    text: (value) => duration(value * 1e3),
    better: -1,
  },
];

// Of several builds each has one colour.
const buildColour = (index) => {
  const [hue, chroma] = HUES[index % HUES.length];
  return `oklch(0.62 ${chroma} ${hue})`;
};

function compareTable(builds) {
  const rows = COMPARED.filter((row) => builds.some((build) => row.value(build) !== null));
  let group = null;
  const body = rows.map((row) => {
    const base = row.value(builds[0]),
      first = row.group !== group;
    group = row.group;
    return html(
      "tr",
      {},
      html("td", { class: "soft" }, first ? row.group : ""),
      html("td", {}, row.title),
      builds.map((build, index) => {
        const value = row.value(build);
        if (value === null) return html("td", { class: "n" }, html("span", { class: "soft" }, "–"));
        const shown = row.text ? row.text(value) : String(value);
        if (index === 0 || typeof value !== "number" || typeof base !== "number" || value === base)
          return html("td", { class: `n${value === "NOT EQUIVALENT" ? " bad" : ""}`, "data-value": value }, shown);
        const unit = row.unit ?? (row.text?.(1).endsWith("%") ? "points" : null),
          apart = Math.abs(value - base) * (unit === "points" ? 100 : 1);
        const better = row.better * Math.sign(value - base);
        const difference = !row.better
          ? ""
          : `${value > base ? "+" : "−"}${unit ? `${digits(apart)} ${unit}` : base ? percent(apart / Math.abs(base)) : scaled(apart)}`;
        return html(
          "td",
          { class: "n", "data-value": value },
          shown,
          html(
            "div",
            { class: better > 0 ? "good" : better < 0 ? "bad" : "soft", style: { "font-size": "11px" } },
            difference,
          ),
        );
      }),
    );
  });
  return html(
    "div",
    { class: "wide" },
    html(
      "table",
      { class: "compare" },
      html(
        "thead",
        {},
        html(
          "tr",
          {},
          html("th"),
          html("th"),
          builds.map((build, index) =>
            html(
              "th",
              { class: "n" },
              dot(buildColour(index)),
              build.name,
              index === 0 && html("div", { class: "soft" }, "differences from this"),
            ),
          ),
        ),
      ),
      html("tbody", {}, body),
    ),
  );
}

function compareBars(builds) {
  const rows = COMPARED.filter(
    (row) => row.better && new Set(builds.map(row.value).filter((value) => typeof value === "number")).size > 1,
  );
  if (!rows.length) return empty("No measured number differs between these builds.");
  return html(
    "div",
    { class: "multiples" },
    rows.map((row) => {
      const values = builds.map((build) => row.value(build)),
        high = Math.max(...values.filter((each) => each !== null), 0);
      const line = 17,
        width = 200;
      return html(
        "div",
        { class: "multiple" },
        html("div", { style: { "font-size": "12px", "font-weight": 600 } }, row.title),
        drawing(
          { label: row.title, width, height: line * builds.length + 2, class: "fit" },
          values.map((value, index) => {
            const long = value === null || high <= 0 ? 0 : Math.max((width - 74) * (value / high), 0.5);
            return svg(
              "g",
              {
                "data-tip": `${builds[index].name}: ${value === null ? "not known" : row.text ? row.text(value) : value}`,
              },
              svg("rect", { x: 0, y: index * line + 3, width: long, height: line - 6, fill: buildColour(index) }),
              svg(
                "text",
                { x: long + 5, y: index * line + 12.5, "font-size": 10.5, class: "soft" },
                value === null ? "–" : row.text ? row.text(value) : value,
              ),
            );
          }),
        ),
      );
    }),
  );
}

// One line a build along the layers that they share.
function compareAlong(views, title, note, of, unit) {
  const names = views[0].layers
    .map((layer) => layer.name)
    .filter((name) => views.some((view) => typeof of(view, name) === "number"));
  const values = names
    .flatMap((name) => views.map((view) => of(view, name)))
    .filter((each) => typeof each === "number");
  if (!values.length) return null;
  const high = Math.max(...values) * 1.08 || 1;
  return [
    html("h3", {}, `${title} `, html("small", {}, note)),
    along(views[0], names, {
      label: title,
      high,
      height: 180,
      ticks: ticksUpTo(high).filter((tick) => unit !== whole || Number.isInteger(tick)),
      unit,
      tip: (name) =>
        `${name}\n${views
          .map((view) => {
            const value = of(view, name);
            return `${view.build.name}: ${typeof value === "number" ? unit(value) : "–"}`;
          })
          .join("\n")}`,
      mark: (name, at) => {
        const each = Math.min((at.step * 0.8) / views.length, 12),
          from = at.x - (each * views.length) / 2;
        return views.map((view, index) => {
          const value = of(view, name);
          return typeof value === "number"
            ? svg("rect", {
                x: from + each * index,
                width: Math.max(each - 0.8, 0.6),
                y: at.y(value),
                height: at.zero - at.y(value),
                fill: buildColour(index),
              })
            : null;
        });
      },
    }),
  ];
}

function compareLayers(views) {
  const maps = views.map((view) => new Map(view.layers.map((layer) => [layer.name, layer])));
  const of = (key) => (view, name) => {
    const layer = maps[views.indexOf(view)].get(name);
    return layer ? key(layer) : null;
  };
  const key = html(
    "div",
    { class: "legend" },
    views.map((view, index) => html("span", {}, dot(buildColour(index)), view.build.name)),
  );
  return [
    key,
    compareAlong(
      views,
      "Energy by layer",
      "dynamic, of a sample",
      of((layer) => layer.energy),
      energy,
    ),
    compareAlong(
      views,
      "Firing rate by layer",
      "mean over steps",
      of((layer) => layer.firing),
      (value) => percent(value, 2),
    ),
    compareAlong(
      views,
      "Weights' SQNR by layer",
      "dB; the worst of a layer's synapses",
      of((layer) => layer.sqnr),
      (value) => `${digits(value)} dB`,
    ),
    compareAlong(
      views,
      "Cores by layer",
      "",
      of((layer) => layer.place?.cores),
      whole,
    ),
  ];
}
