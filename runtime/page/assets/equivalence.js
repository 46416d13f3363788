// Where spikes differ, by layer and check, and over places.

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
            role: "img",
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
