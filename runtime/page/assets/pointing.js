// One tooltip, for pointer and keyboard alike, and one layer at a time that is marked wherever it is shown.

const tip = html("div", { id: "tip", hidden: true, role: "status" });

function showTip(target, x, y) {
  tip.hidden = target === null;
  if (target === null) return;
  if (tip.textContent !== target.dataset.tip) tip.textContent = target.dataset.tip;
  tip.style.left = `${Math.max(Math.min(x + 14, innerWidth - tip.offsetWidth - 8), 8)}px`;
  tip.style.top = `${Math.max(Math.min(y + 16, innerHeight - tip.offsetHeight - 8), 8)}px`;
}

const near = (event, selector) => (event.target instanceof Element ? event.target.closest(selector) : null);

document.addEventListener("pointermove", (event) => showTip(near(event, "[data-tip]"), event.clientX, event.clientY));
document.addEventListener("focusin", (event) => {
  const target = near(event, "[data-tip]");
  if (target === null || !target.matches(":focus-visible")) return showTip(null);
  const box = target.getBoundingClientRect();
  showTip(target, box.left, box.bottom - 8);
});
document.addEventListener("focusout", () => showTip(null));
document.addEventListener("keydown", (event) => event.key === "Escape" && showTip(null));

// The layer under the pointer or the focus; else the one that the reader picked.
const marking = { now: null, picked: null, told: [] };

function markLayer(name) {
  if (name === marking.now) return;
  marking.now = name;
  for (const each of document.querySelectorAll(".hot")) each.classList.remove("hot");
  if (name !== null)
    for (const each of document.querySelectorAll(`[data-layer="${CSS.escape(name)}"]`)) each.classList.add("hot");
  // cores of other layers fade
  for (const each of document.querySelectorAll(".cores")) each.classList.toggle("picking", name !== null && each.querySelector(".hot") !== null);
  for (const each of marking.told) each(name);
}

function pickLayer(name) {
  marking.picked = marking.picked === name ? null : name;
  for (const each of document.querySelectorAll("button[data-layer]"))
    each.setAttribute("aria-pressed", String(each.dataset.layer === marking.picked));
  markLayer(marking.picked);
}

for (const kind of ["pointerover", "focusin"])
  document.addEventListener(kind, (event) => markLayer(near(event, "[data-layer]")?.dataset.layer ?? marking.picked));
document.addEventListener("click", (event) => {
  const layer = near(event, "button[data-layer]")?.dataset.layer;
  if (layer !== undefined) pickLayer(layer);
});
