// What became of the classes: which are taken for which, and the samples whose class quantizing changed.

const MATRIX_CLASSES = 40;
const MISTAKES_SHOWN = 24;

function classes(view) {
  const { verification, name } = view.build;
  if (!verification)
    return empty(
      "Not verified: nothing is known here of what samples are taken for.",
      `resformer-verify ${name} --model MODEL --input X.npy --labels L.npy --json R.json\nresformer-report ${name} --verify R.json -o report.html`,
    );
  if (verification.format_version < 2)
    return empty(
      "This verification was written by an earlier version, which did not tell the class of each sample.",
      `resformer-verify ${name} --model MODEL --input X.npy --labels L.npy --json R.json`,
    );
  return html(
    "div",
    { class: "classes" },
    html(
      "div",
      {},
      verification.labels
        ? confusion(view)
        : caption("The true classes are unknown (resformer-verify --labels L.npy), so there is no confusion matrix."),
    ),
    html("div", {}, changed(view)),
  );
}

// A class by its name, if the build knows it.
const className = ({ build }, label) => build.verification?.classes?.[label] ?? build.report.classes?.[label] ?? String(label);

// How often each class is taken for each, a row a true class.
function counts(labels, predictions, size) {
  const table = Array.from({ length: size }, () => new Array(size).fill(0));
  labels.forEach((label, sample) => (table[label][predictions[sample]] += 1));
  return table;
}

function confusion(view) {
  const { labels, predictions, predictions_original: original } = view.build.verification;
  // by a loop: a call takes only so many arguments
  const largest = (values) => values.reduce((most, each) => Math.max(most, each), 0);
  const size = 1 + largest([labels, predictions, original ?? []].map(largest));
  return size <= MATRIX_CLASSES
    ? matrix(view, counts(labels, predictions, size), original && counts(labels, original, size))
    : mistakes(view, labels, predictions, original);
}

// Counts as a table with a shade of each row's share; beside a count, by how much it differs from the original's.
function matrix(view, table, before) {
  const named = (label) => className(view, label);
  const small = table.length > 20;
  const cell = (label, predicted) => {
    const count = table[label][predicted],
      moved = before ? count - before[label][predicted] : 0,
      share = count / (sum(table[label]) || 1);
    const text = `true ${named(label)}, taken for ${named(predicted)}: ${counted(count, "sample")}${before ? `; by the original ${whole(before[label][predicted])}` : ""}`;
    return html(
      "td",
      {
        class: `${label === predicted ? "right" : "wrong"}${moved ? " moved" : ""}`,
        // shades that leave the number its contrast
        style: { "--share": count ? `${(label === predicted ? 6 + 30 * share : 14 + 40 * Math.sqrt(share)).toFixed(1)}%` : "0%" },
        "data-tip": text,
        "data-count": count,
      },
      count ? (small ? html("span", { class: "seen" }, count) : whole(count)) : html("span", { class: "unseen" }, "·"),
      moved !== 0 && !small && html("sup", {}, `${moved > 0 ? "+" : "−"}${Math.abs(moved)}`),
    );
  };
  const recall = (label) => (sum(table[label]) ? table[label][label] / sum(table[label]) : null);
  return [
    html("h3", {}, "Confusion matrix ", html("small", {}, `of the quantized network, ${counted(sum(table.map(sum)), "sample")}`)),
    html(
      "div",
      { class: "wide", "data-label": "confusion matrix" },
      html(
        "table",
        { class: `confusion${small ? " small" : ""}` },
        html("caption", {}, "A row a true class, a column what it is taken for."),
        html(
          "thead",
          {},
          html(
            "tr",
            {},
            html("th", { scope: "col" }, "true"),
            table.map((_, predicted) => html("th", { scope: "col" }, named(predicted))),
            html("th", { scope: "col" }, "right"),
          ),
        ),
        html(
          "tbody",
          {},
          table.map((row, label) =>
            html(
              "tr",
              {},
              html("th", { scope: "row" }, named(label)),
              row.map((_, predicted) => cell(label, predicted)),
              html("td", { class: "recall" }, recall(label) === null ? "–" : percent(recall(label), 3)),
            ),
          ),
        ),
      ),
    ),
    caption(
      before
        ? "Small signed numbers: how many samples more or fewer than by the original network."
        : "The original network was not run, so nothing is compared with it.",
    ),
  ];
}

// Of many classes, the pairs that are mistaken most often.
function mistakes(view, labels, predictions, original) {
  const pairs = new Map();
  const add = (predicted, key) =>
    labels.forEach((label, sample) => {
      if (label === predicted[sample]) return;
      const pair = `${label} ${predicted[sample]}`;
      if (!pairs.has(pair)) pairs.set(pair, { label, predicted: predicted[sample], quantized: 0, original: 0 });
      pairs.get(pair)[key] += 1;
    });
  add(predictions, "quantized");
  if (original) add(original, "original");
  const worst = [...pairs.values()].sort((one, other) => other.quantized - one.quantized).slice(0, MISTAKES_SHOWN);
  const columns = [
    { title: "true", value: (row) => className(view, row.label) },
    { title: "taken for", value: (row) => className(view, row.predicted) },
    { title: "quantized", value: (row) => row.quantized, numeric: true, bar: true },
    original && { title: "original", value: (row) => row.original, numeric: true, bar: true },
  ].filter(Boolean);
  return [
    html(
      "h3",
      {},
      "Most common mistakes ",
      html("small", {}, `of the quantized network; ${counted(pairs.size, "pair")} of classes in all`),
    ),
    html("div", { class: "narrow" }, sortable(columns, worst, { label: "most common mistakes" })),
  ];
}

const KINDS_OF_CHANGE = {
  lost: ["lost", "only the original is right", "bad"],
  won: ["won", "only the quantized network is right", "good"],
  moved: ["moved", "neither is right, or the true class is unknown", ""],
};

function changed(view) {
  const { changed: found, verification } = view.build;
  if (!found)
    return caption("The original was not run (resformer-verify --model MODEL), so no sample is known to have changed its class.");
  const total = sum(Object.values(found.counts));
  const title = html(
    "h3",
    {},
    "Samples that changed their class ",
    html("small", {}, `${whole(total)} of ${whole(verification.samples)}`),
  );
  if (!total) return [title, caption("Every sample keeps the class that the original gives it.")];
  return [
    title,
    html(
      "p",
      { class: "caption" },
      Object.entries(KINDS_OF_CHANGE)
        .filter(([kind]) => found.counts[kind])
        .flatMap(([kind, [word, meaning, tone]], index) => [
          index ? "; " : "",
          html("span", { class: tone }, `${whole(found.counts[kind])} ${word}`),
          ` (${meaning})`,
        ]),
      ".",
    ),
    html(
      "ul",
      { class: "changed" },
      found.samples.map((each) => changedSample(view, each)),
    ),
    found.no_images && caption(found.no_images),
    found.samples.length < total && caption(`The first ${found.samples.length} of ${whole(total)}.`),
  ];
}

function changedSample(view, { sample, kind, name, image }) {
  const { labels, predictions, predictions_original: original } = view.build.verification;
  const [word, , tone] = KINDS_OF_CHANGE[kind],
    named = (label) => className(view, label);
  const line = (label, value) =>
    html("div", {}, html("span", { class: "soft" }, `${label} `), html("span", {}, value));
  return html(
    "li",
    { "data-sample": sample },
    image && drawn(image, `sample ${sample}`),
    html(
      "div",
      { class: "facts" },
      html("div", { class: `kind ${tone}` }, word),
      labels && line("true", named(labels[sample])),
      line("original", named(original[sample])),
      line("quantized", named(predictions[sample])),
      html("div", { class: "faint", title: name }, name ?? `sample ${sample}`),
    ),
  );
}
