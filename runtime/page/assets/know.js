// What a reader should know of the network, of its samples and of this machine.

// Notes and assumptions, which verify puts into a sentence each; the page lists them whole.
const inShort = (sentence, { notes, assumptions }) =>
  (notes.length && sentence.startsWith(notes[0])) || (assumptions.length && sentence.startsWith("assumed ("));

// Each sentence once.
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
