// What surrounds every page: its title, its sections and the way to them.

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
    before && html("section", { class: "summary", "aria-label": "summary" }, before),
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
