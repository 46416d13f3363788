// Groups of layers; a colour and a pattern for each layer, no two alike.

// A block of a SpikingResformer, or what comes before the first dot of a name.
function groupOf(name) {
  const block = /^layers\.\d+\.\d+(?=\.|$)/.exec(name);
  return block ? block[0] : name.split(".")[0];
}

const inBlock = (name) => /^layers\.\d+\.\d+\./.test(name);
const shortName = (name) => (inBlock(name) ? name.slice(groupOf(name).length + 1) : name);
const briefName = (name) => name.replace(/^layers\./, "");

// Hues 45 degrees apart, those that lie far from each other first (after Okabe and Ito): angle and chroma.
const HUES = [
  [250, 0.13],
  [70, 0.12],
  [160, 0.11],
  [340, 0.14],
  [205, 0.1],
  [25, 0.14],
  [295, 0.13],
  [115, 0.11],
];
// Light enough for dark paper, dark enough for light paper.
const LIGHTNESS = [0.48, 0.58, 0.67];
const PATTERNS = ["plain", "rising", "dots", "level", "falling", "crossed"];
const LOOKS_A_HUE = LIGHTNESS.length * PATTERNS.length;

// A group's layers share a hue, which later groups share too: its shades and patterns are used up one after the other.
function looks(nodes) {
  const groups = new Map();
  for (const node of nodes) {
    const group = groupOf(node.name);
    if (!groups.has(group)) groups.set(group, [[], []]);
    // what fires comes first, as figures without patterns show it alone: its shades then differ
    groups.get(group)[node.signal?.kind === "spike" ? 0 : 1].push(node.name);
  }
  const found = new Map(),
    taken = new Array(HUES.length).fill(0);
  [...groups.values()].forEach((names, group) => {
    const hue = group % HUES.length,
      [angle, chroma] = HUES[hue];
    // a group begins with a pattern of its own
    taken[hue] = Math.ceil(taken[hue] / LIGHTNESS.length) * LIGHTNESS.length;
    for (const name of names.flat()) {
      const place = taken[hue]++,
        turned = (angle + 22.5 * Math.floor(place / LOOKS_A_HUE)) % 360;
      found.set(name, {
        colour: `oklch(${LIGHTNESS[place % LIGHTNESS.length]} ${chroma} ${turned})`,
        pattern: PATTERNS[Math.floor(place / LIGHTNESS.length) % PATTERNS.length],
      });
    }
  });
  return found;
}

// What a pattern draws over its colour, on a tile of 6 units.
const STROKES = {
  plain: "",
  rising: "M-1,7L7,-1M-1,1L1,-1M5,7L7,5",
  falling: "M-1,-1L7,7M5,-1L7,1M-1,5L1,7",
  level: "M0,1.5H6M0,4.5H6",
  crossed: "M-1,7L7,-1M-1,-1L7,7",
  dots: "M1.5,1.4v.2M4.5,4.4v.2",
};

// Defined once a page: what cores and legends are filled with, by colour and pattern.
const fills = svg("defs");
const fillIds = new Map();

function fillOf({ colour, pattern }) {
  if (pattern === "plain") return colour;
  const key = `${colour} ${pattern}`;
  if (!fillIds.has(key)) {
    const id = `fill${fillIds.size}`;
    fillIds.set(key, id);
    fills.append(
      svg(
        "pattern",
        { id, width: 6, height: 6, patternUnits: "userSpaceOnUse" },
        svg("rect", { width: 6, height: 6, fill: colour }),
        svg("path", {
          d: STROKES[pattern],
          fill: "none",
          stroke: "var(--paper)",
          "stroke-opacity": 0.75,
          "stroke-width": pattern === "dots" ? 2 : 1.1,
          "stroke-linecap": pattern === "dots" ? "round" : "butt",
        }),
      ),
    );
  }
  return `url(#${fillIds.get(key)})`;
}

// A layer's own colour and pattern, in a small square.
const swatch = (look) =>
  svg(
    "svg",
    { class: "swatch", width: 12, height: 12, viewBox: "0 0 12 12", "aria-hidden": "true" },
    svg("rect", { width: 12, height: 12, rx: 2, fill: fillOf(look) }),
  );
