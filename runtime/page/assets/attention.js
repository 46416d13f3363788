// Attention over the image.

function attentionMaps(view) {
  const { run } = view.build;
  if (!run) return needsRun(view, "Attention maps");
  if (!run.attention.length) return empty("This network has no spiking attention.");
  const pictures = run.images?.map((image) => ({ ...image, pixels: bytes(image.rgb) }));
  const samples = run.shown;
  const named = (label) => view.build.report.classes?.[label] ?? `class ${label}`;
  const overlay = (picture, map, rows, columns, label) => {
    const width = Math.max(picture?.columns ?? columns, columns),
      height = Math.max(picture?.rows ?? rows, rows);
    return paint(html("canvas", { role: "img", "aria-label": label }), width, height, (x, y) => {
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
                drawn(picture, `sample ${index}`),
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
                  overlay(pictures?.[sample], maps.subarray(at, at + size), layer.rows, layer.columns, `head ${head} of ${layer.name}, sample ${sample}`),
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
