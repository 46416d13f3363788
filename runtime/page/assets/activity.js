// What a run did: rates, spikes, attention over the image, potentials near the threshold.

const needsRun = (view, what) =>
  empty(`${what} need a run of some samples.`, `resformer-report ${view.build.name} --input X.npy -o report.html`);

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

function multiple(view, name, facts, ...content) {
  return html(
    "div",
    { class: "multiple layer", "data-layer": name, "data-tip": null },
    html(
      "div",
      { class: "name", title: name },
      dot(view.colour(name)),
      html("span", {}, html("bdi", { dir: "ltr" }, name)),
    ),
    content,
    html("div", { class: "fact" }, facts),
  );
}

// Canvases take the colours that the page has.
function paint(canvas, width, height, pixel) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d"),
    image = context.createImageData(width, height);
  for (let index = 0; index < width * height; index += 1)
    image.data.set(pixel(index % width, Math.floor(index / width)), 4 * index);
  context.putImageData(image, 0, 0);
  return canvas;
}
function rgbOf(colour) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const context = canvas.getContext("2d");
  context.fillStyle = colour;
  context.fillRect(0, 0, 1, 1);
  return [...context.getImageData(0, 0, 1, 1).data.slice(0, 3)];
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
        `a row is a neuron, a column a step; ${counted(run.rasters[names[0]]?.samples ?? 0, "sample")}, one after the other, ${counted(run.timesteps, "step")} each`,
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
          html("canvas", { class: "raster", "aria-label": `spikes of ${name}` }),
          width,
          rows,
          (x, y) => {
            const fired = (packed[y * row + (x >> 3)] >> (7 - (x & 7))) & 1;
            // every other sample on a shade, to tell them apart
            return fired ? [red, green, blue, 255] : [128, 128, 128, Math.floor(x / run.timesteps) % 2 ? 22 : 0];
          },
        );
        return multiple(view, name, `${percent(view.rate(name))} fire, ${rows} of ${whole(of)} shown`, canvas);
      }),
    ),
  ];
}

function attentionMaps(view) {
  const { run } = view.build;
  if (!run) return needsRun(view, "Attention maps");
  if (!run.attention.length) return empty("This network has no spiking attention.");
  const pictures = run.images?.map((image) => ({ ...image, pixels: bytes(image.rgb) }));
  const samples = run.predictions.length;
  const named = (label) => view.build.report.classes?.[label] ?? `class ${label}`;
  const overlay = (picture, map, rows, columns) => {
    const width = Math.max(picture?.columns ?? columns, columns),
      height = Math.max(picture?.rows ?? rows, rows);
    return paint(html("canvas", {}), width, height, (x, y) => {
      const heat = map[Math.floor((y * rows) / height) * columns + Math.floor((x * columns) / width)] / 255;
      let grey = 128;
      if (picture) {
        const at =
          3 * (Math.floor((y * picture.rows) / height) * picture.columns + Math.floor((x * picture.columns) / width));
        grey = (picture.pixels[at] + picture.pixels[at + 1] + picture.pixels[at + 2]) / 3;
      }
      // from dim picture through violet and orange to pale yellow: light grows with firing
      const dim = 26 + 0.42 * grey,
        ramp = [
          [60, 20, 110],
          [190, 55, 90],
          [245, 140, 30],
          [252, 240, 165],
        ];
      const place = heat * 3,
        low = Math.min(Math.floor(place), 2),
        part = place - low,
        weight = Math.min(0.15 + heat * 1.1, 0.92) * (heat > 0.01 ? 1 : 0);
      return [0, 1, 2]
        .map(
          (channel) => dim * (1 - weight) + weight * (ramp[low][channel] * (1 - part) + ramp[low + 1][channel] * part),
        )
        .concat(255);
    });
  };
  const inputs =
    pictures &&
    html(
      "figure",
      {},
      html("div", { class: "name" }, "\u00a0"),
      html("div", { class: "fact" }, "\u00a0"),
      html(
        "table",
        {},
        html("thead", {}, html("tr", {}, html("th", {}, "input"))),
        html(
          "tbody",
          {},
          pictures.map((picture, index) =>
            html(
              "tr",
              {},
              html(
                "td",
                {
                  "data-tip": `sample ${index}: ${named(run.predictions[index])}${run.labels ? `, labelled ${named(run.labels[index])}` : ""}`,
                },
                paint(html("canvas", {}), picture.columns, picture.rows, (x, y) => [
                  ...picture.pixels.slice(3 * (y * picture.columns + x), 3 * (y * picture.columns + x) + 3),
                  255,
                ]),
              ),
            ),
          ),
        ),
      ),
    );
  const blocks = run.attention.map((layer) => {
    const maps = bytes(layer.maps),
      size = layer.rows * layer.columns;
    return html(
      "figure",
      { class: "layer", "data-layer": layer.name },
      html(
        "div",
        { class: "multiple" },
        html("div", { class: "name" }, dot(view.colour(layer.name)), html("span", {}, layer.name)),
        html(
          "div",
          { class: "fact" },
          `${layer.rows} × ${layer.columns} places, ${layer.patches} patches, brightest ${percent(layer.highest, 2)}`,
        ),
      ),
      html(
        "table",
        {},
        html(
          "thead",
          {},
          html(
            "tr",
            {},
            Array.from({ length: layer.heads }, (_, head) => html("th", {}, `head ${head}`)),
          ),
        ),
        html(
          "tbody",
          {},
          Array.from({ length: samples }, (_, sample) =>
            html(
              "tr",
              {},
              Array.from({ length: layer.heads }, (_, head) => {
                const at = (sample * layer.heads + head) * size;
                return html(
                  "td",
                  {},
                  overlay(pictures?.[sample], maps.subarray(at, at + size), layer.rows, layer.columns),
                );
              }),
            ),
          ),
        ),
      ),
    );
  });
  return [
    html("div", { class: "wide" }, html("div", { class: "attention" }, inputs, blocks)),
    html("div", { class: "legend" }, html("span", {}, "never ", html("span", { class: "ramp" }), " brightest")),
    caption(
      `How often each place of the map fires, over ${counted(run.timesteps, "step")} and all patches that attend to it; each layer is scaled to its own brightest place, given above it.`,
    ),
  ];
}

function margins(view) {
  const { run } = view.build;
  if (!run) return needsRun(view, "Membrane potentials");
  const { layers, bins, low, high, samples } = run.margins,
    names = Object.keys(layers);
  if (!names.length) return empty("No neuron of this network fires.");
  const width = 180,
    height = 70,
    x = (value) => (width * (value - low)) / (high - low);
  return [
    html(
      "div",
      { class: "multiples" },
      names.map((name) => {
        const { counts, near, total, below, above } = layers[name],
          most = Math.sqrt(Math.max(...counts, 1));
        const step = (high - low) / bins;
        const figure = drawing(
          { label: `membrane potentials of ${name}`, width, height: height + 14, class: "fit" },
          counts.map((count, bin) => {
            const value = low + step * bin,
              tall = (height * Math.sqrt(count)) / most;
            return svg("rect", {
              x: x(value) + 0.4,
              y: height - tall,
              width: width / bins - 0.8,
              height: tall,
              fill: view.colour(name),
              "fill-opacity": value + step / 2 > 1 ? 1 : 0.38,
            });
          }),
          svg("path", { class: "axis", d: `M0,${height}H${width}` }),
          svg("path", { d: `M${x(1)},0V${height}`, stroke: "var(--ink)", "stroke-width": 1 }),
          [low, 1, high].map((value, index) =>
            svg(
              "text",
              {
                x: [1, x(1), width - 1][index],
                y: height + 12,
                "text-anchor": ["start", "middle", "end"][index],
                class: "faint",
                "font-size": 10,
              },
              index === 1 ? "threshold" : value,
            ),
          ),
        );
        figure.dataset.tip = `${name}\n${whole(total)} potentials: ${percent(below / total)} below 0, ${percent(above / total)} above ${high} thresholds\n${whole(near)} within one unit of the threshold`;
        return multiple(view, name, `${percent(near / total, 2)} on the edge`, figure);
      }),
    ),
    caption(
      `Potentials before the reset, in thresholds, at every step of ${counted(samples, "sample")}, by the reference interpreter; heights are square roots of counts, and what fires stands in full colour. "On the edge": one unit of input more or less would decide.`,
    ),
  ];
}

// Where the program's spikes are not those of what it was compiled from.
function differences(view) {
  const found = view.build.run?.differences;
  if (!found)
    return view.build.run
      ? caption("With --model, resformer-report draws where spikes differ from the original's.")
      : null;
  const width = 118;
  return [
    html(
      "h3",
      {},
      "Where spikes differ from the original's ",
      html("small", {}, `${counted(found.samples, "sample")}, from end to end; below each map, its steps`),
    ),
    html(
      "div",
      { class: "multiples" },
      Object.entries(found.layers).map(([name, layer]) => {
        const share = layer.mismatched / layer.compared,
          values = bytes(layer.map),
          most = Math.max(...layer.steps, 1e-12);
        const map = paint(
          html("canvas", {
            class: "map",
            style: { "aspect-ratio": `${layer.columns} / ${layer.rows}` },
            "aria-label": `where spikes of ${name} differ`,
          }),
          layer.columns,
          layer.rows,
          (x, y) => [214, 90, 10, values[y * layer.columns + x]],
        );
        const steps = svg(
          "svg",
          { viewBox: `0 0 ${width} 16`, class: "fit", style: { "max-width": "118px" }, "aria-hidden": "true" },
          layer.steps.map((each, step) => {
            const wide = width / layer.steps.length;
            return svg("rect", {
              x: step * wide + 0.5,
              y: 15 - (14 * each) / most,
              width: Math.max(wide - 1, 0.5),
              height: (14 * each) / most + 0.5,
              fill: view.colour(name),
            });
          }),
        );
        const figure = multiple(view, name, `${percent(share)} differ`, map, steps);
        figure.dataset.tip = `${name}\n${whole(layer.mismatched)} of ${whole(layer.compared)} spikes differ\nat its worst place ${percent(layer.highest)}\n${layer.steps.map((each, step) => `step ${step}: ${percent(each)}`).join("\n")}`;
        return figure;
      }),
    ),
    caption(
      "Maps are over the layer's places (of attention, over the places attended to), averaged over channels, steps and samples, each scaled to its own worst place.",
    ),
  ];
}
