// The first screen: the same spikes? accuracy kept? does it fit? at what cost, and how sure is that?

function answers(view) {
  return [
    html("div", { class: "answers" }, sameSpikes(view), keptAccuracy(view), fits(view), costs(view)),
    checks(view),
  ];
}

// One question, its answer in a word, and what that rests on.
function answer(question, [word, tone], ...facts) {
  return html(
    "div",
    { class: `answer ${tone}` },
    html("h2", {}, question),
    html("div", { class: "word" }, word),
    facts.filter(Boolean).map((fact) => html("div", { class: "why" }, fact)),
  );
}

function sameSpikes({ build }) {
  const { verification, report } = build;
  if (!verification) {
    const card = answer(
      "The same spikes?",
      ["Not verified", "none"],
      !report.architecture
        ? "Backends must equal this program exactly; how near it is to the network as its file has it is measured."
        : report.is_dyadic
          ? "By its arithmetic this program can equal SpikingJelly spike for spike."
          : "This program can equal its own reference exactly, but SpikingJelly only nearly.",
      ["Count with ", html("code", {}, `resformer-verify ${build.name} --model MODEL --input X.npy --json R.json`)],
      ["and show with ", html("code", {}, "resformer-report … --verify R.json"), "."],
    );
    card.classList.add("verdict");
    return card;
  }
  const demanded = Object.values(verification.checks).filter((check) => check?.demanded);
  const spikes = sum(demanded.map((check) => check.compared)),
    wrong = sum(demanded.map((check) => check.mismatched));
  const first = demanded.find((check) => !check.passed)?.first_divergence;
  const card = answer(
    "The same spikes?",
    verification.equivalent ? ["Equivalent", "good"] : ["Not equivalent", "bad"],
    demanded.length > 0 &&
      `${whole(wrong)} of ${whole(spikes)} compared spikes differ: every neuron at every step.`,
    first && `First in ${first.layer}, step ${first.step}, sample ${first.sample}, neuron (${first.neuron.join(", ")}).`,
    [cited(build, "verification/samples", (count) => counted(count, "sample")), `, ${counted(verification.timesteps, "step")} each, in ${verification.backend}.`],
  );
  card.classList.add("verdict");
  card.querySelector(".word").id = "verdict";
  return card;
}

const points = (share) => `${share < 0 ? "−" : share > 0 ? "+" : ""}${(100 * Math.abs(share)).toFixed(2)}`;

// A share of samples, with as many digits as such a number of samples can tell.
const ofSamples = (samples) => (share) =>
  share === 0 || share === 1 ? `${100 * share} %` : `${(100 * share).toFixed(samples >= 10_000 ? 2 : samples >= 100 ? 1 : 0)} %`;

function keptAccuracy({ build }) {
  const { verification, run } = build,
    question = "Accuracy kept?";
  if (!verification) {
    if (typeof run?.accuracy !== "number") return answer(question, ["Unknown", "none"], run?.accuracy_absent ?? "It needs samples with labels: resformer-verify … --labels L.npy.");
    return answer(
      question,
      ["Not compared", "none"],
      [cited(build, "run/accuracy", ofSamples(run.samples)), ` of ${counted(run.samples, "sample")} are right here; the verification compares it with the original's.`],
    );
  }
  const { limits, accuracy, accuracy_intervals: sure, accuracy_drop: drop } = verification;
  const agreement = verification.agreement !== null && [
    cited(build, "verification/agreement", (share) => percent(share, 4)),
    " of samples keep their class.",
  ];
  const certain = sure && Object.keys(accuracy).length > 0 && "Intervals hold with 95\u00a0%.";
  return answer(
    question,
    accuracyWord(verification),
    drop !== null && sure && changeBar(build),
    Object.keys(accuracy).length > 0
      ? rows(
          ["original", "quantized"]
            .filter((name) => name in accuracy)
            .map((name) => [
              name,
              cited(build, `verification/accuracy/${name}`, ofSamples(verification.samples)),
              sure && range(build, `verification/accuracy_intervals/${name}`, ofSamples(1000)),
            ]),
        )
      : (verification.accuracy_absent ?? "There were no labels."),
    agreement,
    [limitsSaid(limits), certain && ` ${certain}`],
    verification.shortfalls.length > 0 && html("span", { class: "bad" }, verification.shortfalls.join("; ")),
  );
}

function accuracyWord({ limits, shortfalls, accuracy, accuracy_drop: drop, agreement }) {
  if (limits.min_agreement !== null || limits.max_accuracy_drop !== null)
    return shortfalls.length ? ["Not kept", "bad"] : ["Kept", "good"];
  if (typeof drop === "number") return [drop === 0 ? "Unchanged" : `${points(-drop)} points`, "plain"];
  if ("quantized" in accuracy) return [percent(accuracy.quantized, 4), "plain"];
  return agreement === null ? ["Unknown", "none"] : [`${percent(agreement, 4)} agree`, "plain"];
}

// By how much accuracy changed, with 95 %.
function changeBar(build) {
  const { accuracy_drop: drop, accuracy_drop_interval: between } = build.verification;
  if (!between) return null;
  const end = Math.max(Math.abs(between[0]), Math.abs(between[1]));
  const shown = (index) => cited(build, `verification/accuracy_drop_interval/${index}`, (each) => points(-each));
  return bar(
    shown(1),
    [-between[1], -drop, -between[0]],
    [shown(0), " points"],
    "change of accuracy in points, with 95 %",
    [-end, end],
  );
}

function limitsSaid({ min_agreement: agreement, max_accuracy_drop: drop }) {
  const said = [
    drop !== null && `at most ${digits(100 * drop)} points lost`,
    agreement !== null && `at least ${percent(agreement)} the same class`,
  ].filter(Boolean);
  return said.length ? `Demanded: ${said.join(", ")}.` : "No limit was set.";
}

function fits({ build }) {
  const { placement } = build,
    question = "Does it fit?";
  if (!placement) return answer(question, ["Not placed", "none"], "The build was compiled with --chip none.");
  const room = placement.chips * placement.chip_cores.length;
  const fullest = placement.layers.reduce(
    (most, layer) => (layer.utilization[layer.bound] > most.utilization[most.bound] ? layer : most),
    placement.layers[0],
  );
  return answer(
    question,
    placement.violations.length ? ["It does not fit", "bad"] : ["It fits", "good"],
    [cited(build, "placement/cores", (count) => counted(count, "core")), ` of ${whole(room)} on `, cited(build, "placement/chips", (count) => counted(count, "chip")), ` of ${placement.chip.name}.`],
    placement.violations.length
      ? `${counted(placement.violations.length, "limit")} exceeded: ${placement.violations[0]}`
      : `${percent(placement.cores / room, 2)} of these cores are in use.`,
    `The fullest holds ${percent(fullest.utilization[fullest.bound], 2)} of the ${fullest.bound} that a core can.`,
  );
}

function costs({ build }) {
  const { cost } = build,
    question = "At what cost?";
  if (!cost) return answer(question, ["Unknown", "none"], "Energy and time follow from what a run does:", html("code", {}, `resformer-report ${build.name} --input X.npy`));
  const shown = (text, factor) => (value) => text(value * factor);
  const row = (label, path, text) => [
    label,
    cited(build, `cost/${path}`, text),
    isRange(cost.intervals[path]) ? range(build, `cost/intervals/${path}`, text) : "no range known",
  ];
  const joules = shown(energy, 1e9),
    [low, high] = cost.intervals.energy_mj.total,
    at = (index) => cited(build, `cost/intervals/energy_mj/total/${index}`, joules);
  return answer(
    question,
    [[cited(build, "cost/energy_mj/total", joules), html("small", {}, " a sample")], "plain"],
    low < high && bar(at(0), [low, cost.energy_mj.total, high], at(1), "energy, between its least and its most", [0, high]),
    rows([
      row("latency", "latency_us", shown(duration, 1e3)),
      row("one every", "interval_us", shown(duration, 1e3)),
      row("power", "power_mw", watts),
    ]),
    `On ${cost.chip.name}, ${chipSteps(cost)}.`,
    otherLayout(build),
    !cost.fits && html("span", { class: "bad" }, `The network does not fit ${cost.chip.name}.`),
  );
}

// Says that a cost is of another layout than the one whose fit is judged; false if it is of that one.
function otherLayout({ cost, placement }) {
  const same = placement && placement.chip.name === cost.chip.name && placement.cores === cost.cores;
  return Boolean(placement) && !same && `This is another layout than the one that is judged here: ${counted(cost.cores, "core")}, ${counted(cost.chips, "chip")} of ${cost.chip.name}.`;
}

const isRange = ([low, high]) => low !== high;

// Names, values and the ranges that they lie in.
const rows = (found) =>
  html(
    "table",
    { class: "short" },
    html(
      "tbody",
      {},
      found.map(([name, value, between]) =>
        html("tr", {}, html("td", {}, name), html("td", { class: "strong" }, value), html("td", {}, between)),
      ),
    ),
  );

// From the least to the most, whose unit is said once where both have it.
function range(build, path, text) {
  const [low, high] = path.split("/").reduce((each, key) => each[key], build).map(text);
  const unit = high.slice(high.lastIndexOf(" "));
  const without = (value) => (low.endsWith(unit) ? text(value).slice(0, -unit.length) : text(value));
  return [cited(build, `${path}/0`, without), " to ", cited(build, `${path}/1`, text)];
}

// What the latency on a chip is made of; relays take no step there, so these are not the backends' steps.
function chipSteps(cost) {
  const steps = Math.round((cost.latency_us * 1e3) / cost.step_ns);
  return `${counted(steps - cost.timesteps, "step")} of latency to the first logits and ${cost.timesteps} more to the last, ${duration(cost.step_ns)} each`;
}

// A value between its least and its most, as a dot on a line between both in words.
function bar(before, [low, value, high], after, label, [from, to]) {
  const at = (each) => `${((100 * (each - from)) / (to - from || 1)).toFixed(2)}%`;
  return html(
    "span",
    { class: "bar" },
    before,
    html(
      "span",
      { class: "track", role: "img", "aria-label": label },
      from < 0 && html("i", { class: "zero", style: { left: at(0) } }),
      html("i", { class: "span", style: { left: at(low), right: `calc(100% - ${at(high)})` } }),
      html("i", { class: "at", style: { left: at(value) } }),
    ),
    after,
  );
}

// E1 to E4. Only what must hold is good or bad; what is measured has no colour.
function checks({ build }) {
  const { verification } = build;
  if (!verification) return null;
  return html(
    "div",
    { class: "checks" },
    Object.entries(CHECKS).map(([key, [short, long]]) => {
      const check = verification.checks[key],
        name = html("div", { class: "name" }, `${short} ${long}`);
      if (!check)
        return html(
          "div",
          {},
          name,
          html("div", { class: "result soft" }, "not run"),
          html("div", { class: "note" }, verification.not_run[key] ?? ""),
        );
      const result = !check.demanded
        ? html("div", { class: "result" }, percent(check.mismatched / check.compared), html("small", {}, " measured"))
        : check.passed
          ? html("div", { class: "result good" }, "equal")
          : html("div", { class: "result bad" }, "NOT EQUAL");
      return html(
        "div",
        {},
        name,
        result,
        html(
          "div",
          { class: "note" },
          cited(build, `verification/checks/${key}/mismatched`, whole),
          " of ",
          cited(build, `verification/checks/${key}/compared`, whole),
          " differ",
        ),
        check.top1_agreement !== undefined &&
          html(
            "div",
            { class: "note" },
            "F1 of spikes ",
            cited(build, `verification/checks/${key}/f1`, (value) => value.toFixed(4)),
          ),
      );
    }),
  );
}
