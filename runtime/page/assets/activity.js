// What a run fired: rates and rasters.

function firingRates(view) {
  if (!view.rates.size) return needsRun(view, "Firing rates");
  const names = [...view.rates.keys()],
    steps = view.rates.get(names[0]).length;
  const high = Math.max(...[...view.rates.values()].flat(), 0.01) * 1.08;
  return [
    html(
      "h3",
      {},
      "Firing rates through the network ",
      html("small", {}, `each layer's ${steps} steps, from left to right; the bar is their mean`),
    ),
    along(view, names, {
      label: "firing rate of each population at each step",
      high,
      height: 210,
      ticks: ticksUpTo(high),
      unit: (tick) => percent(tick, 2),
      tip: (name) =>
        `${name}\n${view.rates
          .get(name)
          .map((rate, step) => `step ${step}: ${percent(rate)}`)
          .join("\n")}`,
      mark: (name, at) => {
        const wide = Math.min(at.step * 0.78, 40),
          rates = view.rates.get(name),
          each = wide / Math.max(steps - 1, 1);
        const points = rates.map((rate, step) => [at.x - wide / 2 + (steps > 1 ? each * step : wide / 2), at.y(rate)]);
        return [
          svg("rect", {
            x: at.x - wide / 2,
            width: wide,
            y: at.y(mean(rates)),
            height: at.zero - at.y(mean(rates)),
            fill: view.colour(name),
            "fill-opacity": 0.22,
          }),
          svg("path", {
            d: `M${points.map((point) => point.map((value) => value.toFixed(1)).join(",")).join("L")}`,
            fill: "none",
            stroke: view.colour(name),
            "stroke-width": 1.8,
            "stroke-linejoin": "round",
          }),
          points.map(([cx, cy]) => svg("circle", { cx, cy, r: at.step > 22 ? 2.2 : 1.4, fill: view.colour(name) })),
        ];
      },
    }),
  ];
}

function rasters(view) {
  const { run } = view.build;
  if (!run) return needsRun(view, "Spikes");
  const names = Object.keys(run.rasters);
  return [
    html(
      "h3",
      {},
      "Spikes ",
      html(
        "small",
        {},
        `a row is a neuron, a column a step; ${counted(run.rasters[names[0]]?.samples ?? 0, "sample")}, one after the other, ${counted(run.timesteps, "step")} each, with its class${run.labels ? "; ! where that is wrong" : ""}`,
      ),
    ),
    html(
      "div",
      { class: "multiples" },
      names.map((name) => {
        const { rows, of, samples, bits } = run.rasters[name],
          packed = bytes(bits),
          width = samples * run.timesteps,
          row = Math.ceil(width / 8);
        const [red, green, blue] = rgbOf(view.colour(name));
        const canvas = paint(
          html("canvas", { class: "raster", role: "img", "aria-label": `spikes of ${name}` }),
          width,
          rows,
          (x, y) => {
            const fired = (packed[y * row + (x >> 3)] >> (7 - (x & 7))) & 1;
            // every other sample on a shade, to tell them apart
            return fired ? [red, green, blue, 255] : [128, 128, 128, Math.floor(x / run.timesteps) % 2 ? 22 : 0];
          },
        );
        return multiple(
          view,
          name,
          `${percent(view.rate(name))} fire, ${rows} of ${whole(of)} shown`,
          canvas,
          classesBelow(view, samples),
        );
      }),
    ),
  ];
}

const CLASSES_BELOW = 16;

// Under a raster, what each of its samples is taken for; where that is wrong, what it is.
function classesBelow(view, samples) {
  const { predictions, labels } = view.build.run;
  if (samples > CLASSES_BELOW || predictions.length < samples) return null;
  return html(
    "div",
    { class: "below" },
    predictions.slice(0, samples).map((predicted, sample) => {
      const wrong = labels && labels[sample] !== predicted,
        named = className(view, predicted);
      return html(
        "span",
        {
          class: wrong ? "bad" : null,
          "data-tip": `sample ${sample}: taken for ${named}${labels ? `, ${wrong ? "but" : "and"} is ${className(view, labels[sample])}` : ""}`,
        },
        named.length > 3 ? String(predicted) : named,
        wrong && "!",
      );
    }),
  );
}
