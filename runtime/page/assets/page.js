// The page: one build in sections, or several beside each other.

function single(view, version) {
  const { build } = view,
    { report, placement } = build;
  const net = report.architecture?.family
    ? `Network of the family ${report.architecture.family.replaceAll("_", " ")}`
    : report.architecture
      ? `SpikingResformer with ${report.architecture.neuron} neurons, planes ${report.architecture.planes.join("-")}, heads ${report.architecture.num_heads.join("-")}`
      : report.source.module
        ? "Network from a module in memory"
        : "Network from NIR";
  const sections = [
    section(
      "network",
      "Network",
      "Boxes are synapses and neurons, with shapes, widths and firing rates; thin lines carry spikes, thick ones graded values, dashed ones currents. Lines above the boxes are residual ways and operands that wait.",
      pipeline(view),
    ),
    section(
      "layers",
      "Layers",
      "A row is a population of neurons with the synapses into it. A click on a heading sorts.",
      layerTable(view),
    ),
    section(
      "activity",
      "Activity",
      null,
      build.run || !view.rates.size ? null : caption("Rates are those of the cost's run."),
      firingRates(view),
      view.rates.size && !build.run ? needsRun(view, "Spikes") : build.run && rasters(view),
    ),
    section("attention", "Attention", null, attentionMaps(view)),
    section("margins", "Margins", null, margins(view)),
    ...membraneSections(view),
    section("mismatches", "Equivalence", null, mismatches(view), differences(view)),
    section("classes", "Classes", null, classes(view)),
    section("quantization", "Quantization", null, quantization(view)),
    section(
      "chip",
      "Chip",
      placement &&
        `${counted(placement.cores, "core")} on ${counted(placement.chips, "chip")} of ${placement.chip.name}, ${whole(placement.neurons)} neurons of all kinds. ${placement.violations.length ? "It does not fit." : "It fits."}`,
      chipMap(view),
    ),
    section("cost", "Energy and time", null, costSections(view)),
    section("sources", "Where the numbers come from", null, provenance(view)),
  ];
  return frame(
    "compiled network",
    build.name,
    `${net}. From ${sourceOf(report)}, for ${report.targets.join(", ")}.`,
    [answers(view), toKnow(view), headline(view)],
    sections,
    version,
  );
}

function several(views, version) {
  const builds = views.map((view) => view.build);
  const sections = [
    section(
      "numbers",
      "In numbers",
      "Differences are from the first build; green is the better, red the worse.",
      compareTable(builds),
    ),
    section("bars", "What differs", "The same numbers as bars, where the builds are not alike.", compareBars(builds)),
    section("layers", "Layer by layer", null, compareLayers(views)),
    section(
      "sources",
      "Where the numbers come from",
      null,
      views.map((view) => [
        html("h3", {}, view.build.name),
        factTable([
          ["compiled from", sourceOf(view.build.report)],
          ["its SHA-256", view.build.report.source.sha256],
          [
            "options",
            optionsOf(view.build.report)
              .map(([name, text]) => `${name} ${text}`)
              .join(", "),
          ],
        ]),
      ]),
    ),
  ];
  return frame(
    "comparison",
    builds.map((build) => build.name).join(" · "),
    `${builds.length} builds beside each other.`,
    null,
    sections,
    version,
  );
}

const content = JSON.parse(document.getElementById("data").textContent);
const views = content.builds.map(viewOf);

// Frames that scroll can be scrolled by keyboard too; those that do not are no stop on its way.
function reachable() {
  for (const frame of document.querySelectorAll(".wide, .to-know ul")) {
    if (frame.scrollWidth <= frame.clientWidth + 1 && frame.scrollHeight <= frame.clientHeight + 1) {
      for (const name of ["tabindex", "role", "aria-label"]) frame.removeAttribute(name);
      continue;
    }
    frame.tabIndex = 0;
    if (frame.matches("ul")) continue;
    frame.setAttribute("role", "region");
    const label = frame.dataset.label ?? frame.querySelector("[aria-label]")?.getAttribute("aria-label") ?? "figure";
    frame.setAttribute("aria-label", `${label}, scrolls`);
  }
}

document
  .getElementById("page")
  .append(
    ...(views.length === 1 ? single(views[0], content.version) : several(views, content.version))
      .flat(3)
      .filter(Boolean),
  );

document.body.append(tip, arrows());
new ResizeObserver(reachable).observe(document.getElementById("page"));
