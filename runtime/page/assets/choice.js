// What figures with a choice of their own share.

// One of several, as radio buttons that look like a row of keys: arrows move, as everywhere.
function choice(title, name, options, chosen, onchange) {
  return html(
    "fieldset",
    { class: "choice" },
    html("legend", {}, title),
    html(
      "div",
      { class: "keys" },
      options.map(([value, label, hint]) =>
        html(
          "label",
          { "data-tip": hint },
          html("input", {
            type: "radio",
            name,
            value,
            checked: value === chosen,
            onchange: () => onchange(value),
          }),
          html("span", {}, label),
        ),
      ),
    ),
  );
}

// Round numbers between two ends, about as many as wanted.
function ticks(low, high, wanted) {
  const rough = (high - low) / wanted,
    base = 10 ** Math.floor(Math.log10(rough));
  const step = base * [1, 2, 2.5, 5, 10].find((each) => each * base >= rough);
  const found = [];
  for (let index = Math.ceil(low / step - 1e-9); index * step <= high + step * 1e-9; index += 1)
    found.push(index * step);
  return found;
}
