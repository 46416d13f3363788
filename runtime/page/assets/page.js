// The page: one build in ten sections, or several beside each other.

function figures(rows) {
  return html(
    "div",
    { class: "figures" },
    rows
      .filter(Boolean)
      .map(([label, value, note, key, raw]) =>
        html(
          "div",
          {},
          html("div", { class: "label" }, label),
          html("div", { class: "value", "data-key": key, "data-value": raw }, value),
          note && html("div", { class: "note" }, note),
        ),
      ),
  );
}

function verdict(view) {
  const { verification, report } = view.build;
  if (!verification) {
    return html(
      "div",
      { class: "verdict none" },
      html(
        "div",
        {},
        html("div", { class: "word" }, "Not verified"),
        html("div", { class: "why" }, "No verification was given to this page."),
      ),
      html(
        "div",
        { style: { padding: "16px 20px" }, class: "soft" },
        !report.architecture
          ? "Backends must equal this program exactly; how near it is to the network as its file has it is measured. "
          : report.is_dyadic
            ? "By its arithmetic this program can equal SpikingJelly spike for spike. "
            : "This program can equal its own reference exactly, but SpikingJelly only nearly. ",
        html("code", {}, `resformer-verify ${view.build.name} --model MODEL --input X.npy --json R.json`),
        " counts, and ",
        html("code", {}, "resformer-report … --verify R.json"),
        " shows it.",
      ),
    );
  }
  const ok = verification.equivalent;
  const word = (check) =>
    check.demanded ? (check.passed ? ["equal", "good"] : ["NOT EQUAL", "bad"]) : ["measured", ""];
  const first = Object.values(verification.checks).find(
    (check) => check && check.demanded && !check.passed,
  )?.first_divergence;
  return html(
    "div",
    { class: `verdict ${ok && verification.passed !== false ? "good" : "bad"}` },
    html(
      "div",
      {},
      html("div", { class: "word", id: "verdict" }, ok ? "Equivalent" : "Not equivalent"),
      html(
        "div",
        { class: "why" },
        `${counted(verification.samples, "sample")}, ${counted(verification.timesteps, "step")} each, backend ${verification.backend}. `,
        ok
          ? "Every neuron at every step."
          : first
            ? `First differs in ${first.layer}, step ${first.step}, sample ${first.sample}, neuron (${first.neuron.join(", ")}).`
            : "",
      ),
      // of equal spikes alone is that word said: accuracy stands beside it, and what to know of both below
      html("div", { class: "why" }, verification.verdict[1]),
    ),
    html(
      "div",
      { class: "checks" },
      Object.entries(CHECKS).map(([key, [short, long]]) => {
        const check = verification.checks[key];
        if (!check)
          return html(
            "div",
            {},
            html("div", { class: "name" }, `${short} ${long}`),
            html("div", { class: "result soft" }, "not run"),
            html("div", { class: "note" }, verification.not_run[key] ?? ""),
          );
        const [text, tone] = word(check);
        return html(
          "div",
          {},
          html("div", { class: "name" }, `${short} ${long}`),
          html("div", { class: `result ${tone}` }, check.demanded ? text : percent(check.mismatched / check.compared)),
          html("div", { class: "note" }, `${whole(check.mismatched)} of ${whole(check.compared)} differ`),
          check.top1_agreement !== undefined &&
            html(
              "div",
              { class: "note" },
              `top-1 agrees in ${percent(check.top1_agreement, 4)}, F1 ${check.f1.toFixed(4)}`,
            ),
        );
      }),
    ),
  );
}

// Notes and assumptions, which verify puts into a sentence each; the page lists them whole.
const inShort = (sentence, { notes, assumptions }) =>
  (notes.length && sentence.startsWith(notes[0])) || (assumptions.length && sentence.startsWith("assumed ("));

// What a reader should know of the network, of its samples and of this machine, each sentence once.
function toKnow(view) {
  const { report, run, verification } = view.build;
  const told = [
    ["warning", report.warnings],
    ["warning", verification?.warnings],
    ["warning", verification?.to_know.filter((each) => !inShort(each, verification))],
    ["warning", run?.warnings],
    ["note", verification?.notes],
    ["note", run?.notes],
    ["note", report.notes],
    ["assumed", report.assumptions],
    ["assumed", verification?.assumptions],
  ];
  const kinds = new Map();
  for (const [kind, sentences] of told)
    for (const sentence of sentences ?? []) if (!kinds.has(sentence)) kinds.set(sentence, kind);
  if (!kinds.size) return null;
  return html(
    "div",
    { class: "to-know", id: "to-know" },
    html("h2", {}, "To know"),
    html(
      "ul",
      {},
      [...kinds].map(([sentence, kind]) =>
        html("li", {}, html("span", { class: `kind ${kind}` }, kind), html("span", {}, sentence)),
      ),
    ),
  );
}

function headline(view) {
  const { report, placement, run, verification, cost } = view.build,
    { totals } = report,
    bits = widths(report);
  const accuracy = run?.accuracy ?? verification?.accuracy.quantized;
  const exponents = report.nodes
    .filter((node) => node.signal.kind !== "spike" && node.op !== "Input")
    .map((node) => node.signal.scale_exp);
  return figures([
    [
      "steps a sample",
      report.timesteps,
      `${counted(report.latency_steps, "step")} from frame to logits`,
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
    accuracy !== undefined &&
      accuracy !== null && [
        "accuracy",
        percent(accuracy, 4),
        `of ${counted(run?.accuracy === undefined || run?.accuracy === null ? verification.samples : run.samples, "sample")}`,
        "accuracy",
        accuracy,
      ],
    run?.accuracy_absent && ["accuracy", "–", run.accuracy_absent],
    cost && [
      "energy a sample",
      energy(cost.energy_mj.total * 1e9),
      `on ${cost.chip.name}${between(cost.intervals.energy_mj.total, energy, 1e9, ": ")}; the paper's base ${energy(cost.paper.energy_mj * 1e9)}`,
    ],
    cost && [
      "latency",
      duration(cost.latency_us * 1e3),
      [between(cost.intervals.latency_us, duration, 1e3), `a sample every ${duration(cost.interval_us * 1e3)}`]
        .filter(Boolean)
        .join("; "),
    ],
    [
      "may saturate",
      report.may_saturate.length,
      `of ${report.nodes.length} nodes${run ? `; ${whole(sum(Object.values(run.saturated)))} values did` : ""}`,
      "may_saturate",
      report.may_saturate.length,
    ],
  ]);
}

const sourceOf = (report) => report.source.file ?? report.source.module;

// What was chosen, in words: [name, value] of each.
const optionsOf = (report) =>
  Object.entries({
    ...report.options,
    resize: report.preprocessing.resize,
    mean: report.preprocessing.mean?.join(", ") ?? null,
    std: report.preprocessing.std?.join(", ") ?? null,
    classes: report.classes?.join(", ") ?? null,
  })
    .map(([name, value]) => [name.replaceAll("_", " "), optionText(value)])
    .filter(([, text]) => text);

// Widths by layer are an object, of layers that may be none.
function optionText(value) {
  if (value === null || typeof value !== "object") return value === null ? "" : String(value);
  return Object.entries(value)
    .map(([name, each]) => `${name}=${each}`)
    .join(", ");
}

function provenance(view) {
  const { report, placement, cost } = view.build,
    chip = cost?.chip ?? placement?.chip;
  const facts = [
    ["compiled from", sourceOf(report)],
    ["its SHA-256", report.source.sha256, "mono"],
    ["targets", report.targets.join(", ")],
    ...optionsOf(report),
    [
      "versions",
      Object.entries(report.versions)
        .filter(([, version]) => version)
        .map(([name, version]) => `${name} ${version}`)
        .join(", "),
    ],
  ];
  if (report.architecture)
    facts.splice(2, 0, [
      "architecture",
      Object.entries(report.architecture.fields ?? report.architecture)
        .map(([key, value]) => `${key.replaceAll("_", " ")} ${JSON.stringify(value)}`)
        .join(", "),
    ]);
  const constants = chip && Object.entries(chip.constants).map(([name, each]) => ({ name, ...each }));
  const paper =
    cost &&
    Object.entries(cost.paper.constants).map(([name, each]) => ({
      name: `paper: ${name}`,
      status: "published",
      ...each,
    }));
  return [
    factTable(facts),
    constants && [
      html(
        "h3",
        {},
        `Constants of ${chip.name} `,
        html(
          "small",
          {},
          "published: its maker said so; decoded: read off tables that its compiler printed; fitted: to measurements; assumed: ours",
        ),
      ),
      sortable(
        [
          { title: "constant", value: (row) => row.name, text: (row) => html("span", { class: "mono" }, row.name) },
          { title: "value", value: (row) => row.value, text: (row) => String(row.value), numeric: true },
          { title: "range", value: (row) => row.range?.[0] ?? null, text: (row) => row.range?.join(" to ") ?? "" },
          {
            title: "status",
            value: (row) => row.status,
            text: (row) => html("span", { class: `badge ${row.status}` }, row.status),
          },
          { title: "source", value: (row) => row.source },
        ],
        [...(paper ?? []), ...constants],
      ),
    ],
  ];
}

// Names and values, each value in a class of its own if it has one.
const factTable = (facts) =>
  html(
    "table",
    { class: "plain" },
    html(
      "tbody",
      {},
      facts.map(([name, value, look = null]) => html("tr", {}, html("td", {}, name), html("td", { class: look }, value))),
    ),
  );

const themes = html(
  "button",
  {
    type: "button",
    class: "theme",
    onclick: () => {
      const root = document.documentElement,
        dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
      root.dataset.theme = dark ? "light" : "dark";
    },
  },
  "light / dark",
);

function section(id, title, lead, ...content) {
  return {
    id,
    title,
    element: (number) =>
      html(
        "section",
        { id },
        html("h2", {}, html("span", { class: "number" }, number), title),
        lead && html("p", { class: "lead" }, lead),
        content,
      ),
  };
}

function frame(kicker, title, subtitle, before, sections, version) {
  return [
    html(
      "header",
      { class: "top" },
      html("div", {}, html("div", { class: "kicker" }, kicker), html("h1", {}, title), html("p", {}, subtitle)),
      themes,
    ),
    before,
    html(
      "nav",
      { "aria-label": "sections" },
      sections.map((each, index) => html("a", { href: `#${each.id}` }, `${index + 1} ${each.title}`)),
    ),
    html(
      "main",
      {},
      sections.map((each, index) => each.element(String(index + 1))),
    ),
    html(
      "footer",
      {},
      `resformer ${version}. All numbers are drawn from the JSON that this page carries (script element "data").`,
    ),
  ];
}

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
    [verdict(view), toKnow(view), headline(view)],
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
document
  .getElementById("page")
  .append(
    ...(views.length === 1 ? single(views[0], content.version) : several(views, content.version))
      .flat(3)
      .filter(Boolean),
  );
document.body.append(tip, arrows());
