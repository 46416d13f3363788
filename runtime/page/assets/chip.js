// Cores on chips, and what fills them.

const CHIPS_DRAWN = 96;

// An optimised layout beside the one with the fewest cores, at one activity.
function layouts(layout) {
  const interval = ([low, high], text) => (low === high ? "" : ` (${text(low)} to ${text(high)})`);
  const told = ({ cores, chips, ...each }) =>
    `${counted(cores, "core")}, ${counted(chips, "chip")}; a step of ${duration(each.step_ns)}${interval(each.step_ns_between, duration)}; ` +
    `${energy(each.energy_mj * 1e9)}${interval(each.energy_mj_between.map((mj) => mj * 1e9), energy)} a sample`;
  const isTime = layout.goal === "time";
  const least = isTime ? `a step of ${duration(layout.least)}` : `${energy(layout.least * 1e9)} a sample`;
  const figure = isTime ? "step_ns" : "energy_mj";
  const gap = layout.chosen[figure] / layout.least - 1;
  return html("div", {}, [
    html("h3", {}, "Layouts ", html("small", {}, `activity ${layout.activity}; seed ${layout.seed}`)),
    html("ul", {}, [
      html("li", {}, `Fewest cores: ${told(layout.default)}.`),
      html("li", {}, `For ${layout.goal}, as built: ${told(layout.chosen)}.`),
      html(
        "li",
        {},
        `No layout of at most ${counted(layout.cores_allowed, "core")} goes below ${least}: this one is ${(100 * gap).toFixed(1)} % above.`,
      ),
    ]),
  ]);
}

// Which layer each core holds, by its number over all chips.
function coresOf(placement) {
  const owners = [];
  for (const layer of placement.layers)
    layer.filled.forEach((neurons, index) => (owners[layer.sites[index]] = { layer, neurons }));
  const perChip = placement.chip_cores.length;
  return { owners, perChip, chips: Math.max(Math.ceil(owners.length / perChip), 1) };
}

// Where a chip's cores lie, with squares of a size in tiles that stand apart.
function floorplan(placement, size, gap) {
  const most = (at) => 1 + placement.chip_cores.reduce((largest, core) => Math.max(largest, core[at]), 0);
  const [columns, rows, slots] = [0, 1, 2].map(most),
    across = Math.ceil(Math.sqrt(slots)),
    down = Math.ceil(slots / across);
  const wide = across * size + gap,
    high = down * size + gap;
  return {
    slots,
    width: columns * wide - gap,
    height: rows * high - gap,
    places: placement.chip_cores.map(([column, row, slot]) => [
      column * wide + (slot % across) * size,
      row * high + Math.floor(slot / across) * size,
    ]),
  };
}

function chipMap(view) {
  const { placement, cost } = view.build;
  if (!placement)
    return empty(
      "Not placed: this build was compiled with --chip none.",
      "resformer-compile MODEL --target sim --chip loihi2 -o BUILD",
    );
  const cores = coresOf(placement);
  const shown = html("div", { class: "one-chip" });
  const show = (chip) => shown.replaceChildren(...oneChip(view, cores, chip).filter(Boolean));
  const violations = placement.violations.length
    ? html(
        "ul",
        { class: "bad" },
        placement.violations.map((line) => html("li", {}, line)),
      )
    : null;
  const overview = cores.chips > 1 ? allChips(view, cores, show) : null;
  show(0);
  return [
    violations,
    cores.chips > 1 && finder(view, cores, show),
    overview,
    shown,
    placement.layout && layouts(cost?.layout ?? placement.layout),
    html(
      "h3",
      {},
      "What fills the cores ",
      html("small", {}, "the fullest core of each layer; what bounds the layer is outlined"),
    ),
    utilisation(view),
  ];
}

// The core's square; what of it is full colour is what of its neurons is in use.
function core(view, owner, x, y, inner, limit, told) {
  if (!owner) return svg("rect", { class: "free", x, y, width: inner, height: inner, "data-tip": told });
  const part = Math.min(owner.neurons / limit, 1),
    high = Math.max(inner * part, 1),
    fill = fillOf(view.look(owner.layer.name));
  return svg(
    "g",
    { class: "layer", "data-layer": owner.layer.name, "data-tip": told },
    svg("rect", { x, y, width: inner, height: inner, fill, "fill-opacity": 0.35 }),
    svg("rect", { x, y: y + inner - high, width: inner, height: high, fill }),
  );
}

// One chip, large, beside the layers that lie on it.
function oneChip(view, { owners, perChip, chips }, chip) {
  const { placement } = view.build,
    limit = placement.chip.constants.neurons_per_core.value,
    size = 30;
  const { places, width, height, slots } = floorplan(placement, size, 6);
  const mine = owners.slice(chip * perChip, (chip + 1) * perChip);
  const squares = places.map(([x, y], index) => {
    const owner = mine[index];
    if (!owner) return core(view, null, x, y, size - 2, limit, `core ${index} is free`);
    const { bound, utilization, name } = owner.layer;
    return core(
      view,
      owner,
      x,
      y,
      size - 2,
      limit,
      `${name}\ncore ${index} of chip ${chip}: ${whole(owner.neurons)} neurons, ${percent(owner.neurons / limit, 2)} of what it holds\nbound by ${bound}, ${percent(utilization[bound], 2)} used`,
    );
  });
  const counts = new Map();
  for (const owner of mine) if (owner) counts.set(owner.layer, (counts.get(owner.layer) ?? 0) + 1);
  return [
    chips > 1 && html("h3", {}, `Chip ${chip} `, html("small", {}, `${counted(sum([...counts.values()]), "core")} of ${perChip} in use`)),
    html(
      "div",
      { class: "beside" },
      html(
        "div",
        { class: "wide cores" },
        drawing({ label: `cores of chip ${chip}`, width, height }, squares),
      ),
      html(
        "div",
        { class: "legend layers-here", role: "group", "aria-label": `layers on chip ${chip}` },
        [...counts].map(([layer, count]) =>
          html(
            "button",
            {
              type: "button",
              "data-layer": layer.name,
              "aria-pressed": String(marking.picked === layer.name),
              "data-tip": `${layer.name}: ${counted(count, "core")} here, ${whole(layer.cores)} in all, bound by ${layer.bound}`,
            },
            swatch(view.look(layer.name)),
            html("span", { class: "mono" }, layer.name),
            html("span", { class: "soft" }, ` ${whole(count)}`),
          ),
        ),
      ),
    ),
    caption(
      `A square is a core, ${slots} to a tile of the mesh, in full colour as far as its ${whole(limit)} neurons are in use; outlines are free cores. A layer is marked under the pointer or the focus, and stays marked when its name is pressed.`,
    ),
  ];
}

// All chips, small; the one that is pressed is drawn large below. Arrow keys go from chip to chip.
function allChips(view, { owners, perChip, chips }, show) {
  const { places, width, height } = floorplan(view.build.placement, 6, 2);
  const thumbs = Array.from({ length: Math.min(chips, CHIPS_DRAWN) }, (_, chip) => {
    const mine = owners.slice(chip * perChip, (chip + 1) * perChip);
    const squares = places.map(([x, y], index) =>
      mine[index]
        ? svg("rect", {
            class: "layer",
            "data-layer": mine[index].layer.name,
            x,
            y,
            width: 5.3,
            height: 5.3,
            fill: fillOf(view.look(mine[index].layer.name)),
          })
        : svg("rect", { class: "free", x, y, width: 5.3, height: 5.3 }),
    );
    const used = mine.filter(Boolean).length;
    return html(
      "button",
      {
        type: "button",
        class: "thumb",
        tabindex: chip ? -1 : 0,
        "aria-pressed": String(chip === 0),
        "data-tip": `chip ${chip}: ${used} of ${perChip} cores in use`,
        "data-chip": chip,
      },
      svg("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, squares),
      html("span", {}, `chip ${chip}`, html("span", { class: "soft" }, ` ${used}/${perChip}`)),
    );
  });
  const group = html("div", { class: "thumbs cores", role: "group", "aria-label": "all chips" }, thumbs);
  const choose = (chip, focus) => {
    thumbs.forEach((thumb, index) => {
      thumb.setAttribute("aria-pressed", String(index === chip));
      thumb.tabIndex = index === chip ? 0 : -1;
    });
    if (focus) thumbs[chip].focus();
    show(chip);
  };
  group.addEventListener("click", (event) => {
    const thumb = near(event, ".thumb");
    if (thumb) choose(Number(thumb.dataset.chip), false);
  });
  group.addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key],
      at = Number(near(event, ".thumb")?.dataset.chip);
    if (!move || Number.isNaN(at)) return;
    event.preventDefault();
    choose((at + move + thumbs.length) % thumbs.length, true);
  });
  group.addEventListener("choose", (event) => choose(event.detail, false));
  return [
    group,
    chips > CHIPS_DRAWN && caption(`The first ${CHIPS_DRAWN} of ${chips} chips.`),
  ];
}

// A layer by its name, and how large chips are drawn.
function finder(view, { owners, perChip }) {
  const { layers } = view.build.placement;
  const chipsOf = new Map(layers.map((layer) => [layer.name, new Set()]));
  owners.forEach((owner, site) => chipsOf.get(owner.layer.name).add(Math.floor(site / perChip)));
  const said = html("output", { class: "soft" });
  marking.told.push((name) => {
    const on = [...(chipsOf.get(name) ?? [])];
    if (!on.length) return said.replaceChildren();
    const cores = layers.find((layer) => layer.name === name).cores;
    said.replaceChildren(
      `${name}: ${counted(cores, "core")} on ${on.length === 1 ? `chip ${on[0]}` : `${on.length} chips, ${on[0]} to ${on.at(-1)}`}`,
    );
  });
  const names = html(
    "select",
    {
      onchange: (event) => {
        if (marking.picked !== (event.target.value || null)) pickLayer(event.target.value || marking.picked);
        const chip = chipsOf.get(event.target.value)?.values().next().value;
        if (chip !== undefined) document.querySelector(".thumbs").dispatchEvent(new CustomEvent("choose", { detail: chip }));
      },
    },
    html("option", { value: "" }, "mark a layer …"),
    layers.map((layer) => html("option", { value: layer.name }, layer.name)),
  );
  const size = html("input", {
    type: "range",
    min: 80,
    max: 340,
    value: 112,
    oninput: (event) => document.querySelector(".thumbs").style.setProperty("--thumb", `${event.target.value}px`),
  });
  return html(
    "div",
    { class: "finder" },
    html("label", {}, "layer ", names),
    html("label", {}, "size ", size),
    said,
  );
}

function utilisation(view) {
  const { layers } = view.build.placement;
  const resources = Object.keys(layers[0].utilization);
  const cell = Math.max(Math.min(Math.floor(990 / layers.length), 44), 8),
    left = 116,
    high = 20;
  const width = left + layers.length * cell + 4,
    height = resources.length * high + 27;
  return html(
    "div",
    { class: "wide" },
    drawing(
      { label: "utilisation of each resource", width, height },
      resources.map((resource, row) => [
        svg("text", { x: left - 8, y: row * high + 14, "text-anchor": "end", class: "soft" }, resource),
        layers.map((layer, column) => {
          const part = layer.utilization[resource],
            x = left + column * cell;
          return svg(
            "g",
            {
              class: "layer",
              "data-layer": layer.name,
              "data-tip": `${layer.name}\n${resource}: ${whole(layer.usage[resource])}, ${percent(part, 2)} of the limit${layer.bound === resource ? "\nbounds this layer" : ""}`,
            },
            svg("rect", {
              x: x + 1,
              y: row * high + 1,
              width: cell - 2,
              height: high - 2,
              fill: part > 1 ? "var(--bad)" : "var(--accent)",
              "fill-opacity": (0.05 + 0.75 * Math.min(part, 1)).toFixed(3),
              stroke: layer.bound === resource ? "var(--ink)" : "none",
              "stroke-width": 1.2,
            }),
            cell > 30 &&
              svg(
                "text",
                {
                  x: x + cell / 2,
                  y: row * high + 14,
                  "text-anchor": "middle",
                  "font-size": 9.5,
                  style: { fill: part > 0.62 ? "var(--paper)" : "var(--ink)" },
                },
                Math.round(100 * part),
              ),
          );
        }),
      ]),
      keys(view, layers, left, cell, resources.length * high + 3),
    ),
  );
}
