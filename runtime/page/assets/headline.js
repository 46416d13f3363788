// The network in figures.

function headline(view) {
  const { report, run } = view.build,
    { totals } = report,
    bits = widths(report);
  const exponents = report.nodes
    .filter((node) => node.signal.kind !== "spike" && node.op !== "Input")
    .map((node) => node.signal.scale_exp);
  return figures([
    [
      "steps a sample, T",
      report.timesteps,
      `in the backends ${counted(report.latency_steps, "step")} of latency to the first logits, ${report.timesteps} more to the last`,
      "timesteps",
      report.timesteps,
    ],
    [
      "weights",
      bits ? [bits, html("small", {}, " bits")] : "–",
      report.fine_tuned
        ? "as fine-tuned"
        : report.options.per_channel
          ? "an exponent a channel"
          : "an exponent a layer",
      "weight bits",
      bits,
    ],
    ["input", times(report.input.shape), `steps of ${power(-report.input.scale_exp)}, ${report.input.kind}`],
    [
      "currents",
      exponents.length ? `${power(-Math.min(...exponents))} … ${power(-Math.max(...exponents))}` : "–",
      "finest steps of each layer",
    ],
    ["parameters", whole(totals.parameters), null, "totals.parameters", totals.parameters],
    [
      "LIF neurons",
      whole(totals.neurons),
      `and ${whole(totals.graded_neurons)} graded`,
      "totals.neurons",
      totals.neurons,
    ],
    ["synapses", whole(totals.synapses), null, "totals.synapses", totals.synapses],
    report.placement
      ? [
          "cores",
          whole(report.placement.cores),
          `${counted(report.placement.chips, "chip")} of ${report.placement.chip}`,
          "placement.cores",
          report.placement.cores,
        ]
      : ["cores", "–", "not placed"],
    [
      "may saturate",
      report.may_saturate.length,
      `of ${report.nodes.length} nodes${run ? `; ${whole(sum(Object.values(run.saturated)))} values did` : ""}`,
      "may_saturate",
      report.may_saturate.length,
    ],
  ]);
}
