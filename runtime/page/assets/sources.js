// Where the numbers come from.

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
