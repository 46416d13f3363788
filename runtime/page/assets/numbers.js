// Numbers as text: three digits that count, units that people read.

const sum = (values) => values.reduce((total, each) => total + each, 0);
const mean = (values) => (values.length ? sum(values) / values.length : 0);
const whole = (value) => Math.round(value).toLocaleString("en-US");
const times = (shape) => shape.join(" × ");

// three digits that count, and never an exponent that a reader must decode
function digits(value, count = 3) {
  if (value === 0) return "0";
  const size = Math.floor(Math.log10(Math.abs(value)));
  if (size >= count) return whole(value);
  return value.toFixed(Math.min(Math.max(count - 1 - size, 0), 12));
}

function scaled(value, count = 3) {
  for (const [unit, letter] of [
    [1e12, "T"],
    [1e9, "G"],
    [1e6, "M"],
    [1e3, "k"],
  ]) {
    if (Math.abs(value) >= unit) return `${digits(value / unit, count)} ${letter}`;
  }
  return digits(value, count);
}

// neither 0 nor 100 unless it is
function percent(share, count = 3) {
  if (share === 0 || share === 1) return `${100 * share} %`;
  if (100 * share < 0.001) return `${(100 * share).toExponential(1)} %`;
  let text = digits(100 * share, count);
  for (let more = count + 1; share < 1 && Number(text) === 100 && more < 15; more++) text = digits(100 * share, more);
  return `${text} %`;
}

const power = (exponent) =>
  `2${[...String(exponent)].map((each) => (each === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[each])).join("")}`;

function duration(nanoseconds) {
  for (const [unit, name] of [
    [1e9, "s"],
    [1e6, "ms"],
    [1e3, "µs"],
  ])
    if (nanoseconds >= unit) return `${digits(nanoseconds / unit)} ${name}`;
  return `${digits(nanoseconds)} ns`;
}

function energy(picojoules, count = 3) {
  for (const [unit, name] of [
    [1e9, "mJ"],
    [1e6, "µJ"],
    [1e3, "nJ"],
  ])
    if (picojoules >= unit) return `${digits(picojoules / unit, count)} ${name}`;
  return `${digits(picojoules, count)} pJ`;
}

const watts = (milliwatts) =>
  milliwatts >= 1e3 ? `${digits(milliwatts / 1e3)} W` : `${digits(milliwatts)} mW`;

// Between which values a figure lies, after a sign of its own; nothing where no more than one is known.
const between = ([low, high], text, factor = 1, before = "") =>
  low === high ? "" : `${before}${text(low * factor)} to ${text(high * factor)}`;

const counted = (count, word) => `${whole(count)} ${word}${count === 1 ? "" : "s"}`;
