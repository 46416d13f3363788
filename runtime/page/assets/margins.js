// Potentials near the threshold.

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
