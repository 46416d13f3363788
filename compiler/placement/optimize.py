"""The search for a layout with a short step or little energy: how populations are cut, and how cores are filled.

The model of :mod:`resformer.compiler.placement.price` judges all layouts, with the same activity for each.

1. A target is a time that no term of a core may exceed. For a target, populations are cut one after another, readers
   first, each in the cheapest way. The cost of a way is its cores, plus a price for each word that it takes in the
   axon maps of its senders and a price for each of its messages.
2. For each of some prices, bisection finds the shortest target whose cuts take no more cores than are allowed.
3. Single populations are then cut in other ways, in an order that the seed decides, and the populations that send to
   them are cut anew, as long as this frees cores. Then a shorter target is tried.
4. The cores of the best cuts are laid along each of some curves over the mesh, and the model chooses among these.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from resformer.compiler.chips.chip import Chip
from resformer.compiler.files.placement import CORES_PERCENT, Goal, Layout, Predicted
from resformer.compiler.placement.activity import Activity
from resformer.compiler.placement.bound import Table, least_busy_ns, tables_of
from resformer.compiler.placement.curves import curves
from resformer.compiler.placement.place import Placement, lay_out
from resformer.compiler.placement.price import Prediction, predict
from resformer.compiler.placement.steps import LINKS
from resformer.compiler.placement.tiling import Tiling
from resformer.compiler.placement.ways import Ways, undominated, ways_of

FloatArray = npt.NDArray[np.float64]

MAP_PRICES = (0.0, 0.5, 1.0, 2.0)
"""Prices tried for a full axon map of a sending core, in cores."""
MESSAGE_PRICES = (0.0, 0.1, 0.5)
"""Prices tried for all messages of the default layout together, as a multiple of its cores."""
PRECISION = 0.003
"""Bisection of a target stops when its interval is narrower than this share of the target."""
CLEARLY = 1 - 1e-9
"""A layout is better only if its figure is below this times the best: sums of floats may differ by less."""
DIGITS = 12
"""Significant digits compared when cuts are sorted by their figures: sums of floats may differ in the last ones."""
WORSE = 1.05
"""Fewer and fewer chips are tried until the energy is more than this times the best."""
SHORTER = 0.99
"""The next target is at most this times the last one."""
ROUNDS = 12
"""The most rounds in which each population is tried in its other ways."""


@dataclass(frozen=True)
class _Prices:
    """The prices of what a way takes beside its own cores, in cores.

    Attributes:
        word: The price of a word in the axon maps of its senders.
        message: The price of a message.
    """

    word: float
    message: float


class _Cutter:
    """Cuts all populations for a target and prices, and remembers what it found for each."""

    def __init__(self, ways: tuple[Ways, ...]) -> None:
        self.ways = ways
        self.chip = ways[0].candidates.chip
        self.senders: tuple[set[int], ...] = tuple(
            {sender for sender, each in enumerate(ways) if any(read.reader == number for read in each.reads)}
            for number in range(len(ways))
        )
        """For each population, the numbers of the populations that send to it."""
        self._judged: dict[tuple[int, tuple[float, ...]], tuple[npt.NDArray[np.int64], FloatArray]] = {}
        self._found: dict[tuple[int, tuple[float, ...], float, _Prices], int | None] = {}

    def cut(self, target_ns: float, prices: _Prices, wanted: Mapping[int, int]) -> tuple[int, ...] | None:
        """Choose a way for each population: the wanted one if it keeps to the target and all limits, else the cheapest.

        Returns:
            The number of each population's way; None if a population cannot keep to the target.
        """
        chosen: dict[int, int] = {}
        for number in reversed(range(len(self.ways))):
            copies = self._copies(number, chosen)
            found = wanted.get(number)
            if found is None or not self._keeps(number, copies, found, target_ns):
                key = number, copies, target_ns, prices
                if key not in self._found:
                    self._found[key] = self._best(*key)
                found = self._found[key]
            if found is None:
                return None
            chosen[number] = found
        return tuple(chosen[number] for number in range(len(self.ways)))

    def others(self, number: int, target_ns: float) -> list[int]:
        """Ways that keep to a target if each message goes to one core; none is beaten in both cores and fan-outs."""
        ways = self.ways[number]
        usable, busy = self._judge(number, (1.0,) * len(ways.reads))
        usable = usable[busy[usable] <= target_ns]
        kept = undominated(np.column_stack([ways.cores[usable], ways.fan_outs[:, usable].T]))
        return [int(index) for index in usable[kept]]

    def cost(self, chosen: Sequence[int], prices: _Prices) -> tuple[float, float]:
        """The cost of cuts, to be compared as a pair: cores and messages at their price, then words of axon maps."""
        words = sum(float(ways.words[index]) for ways, index in zip(self.ways, chosen, strict=True))
        return round(self.cores(chosen) + prices.message * self.messages(chosen), 6), round(words, 3)

    def cores(self, chosen: Sequence[int]) -> int:
        """The number of cores that the cuts take."""
        return sum(int(ways.cores[index]) for ways, index in zip(self.ways, chosen, strict=True))

    def messages(self, chosen: Sequence[int]) -> float:
        """The number of messages that arrive at cores in a sample."""
        return sum(float(ways.messages[index]) for ways, index in zip(self.ways, chosen, strict=True))

    def busy_ns(self, chosen: Sequence[int]) -> FloatArray:
        """The longest term of any core at each step, links left out, in ns, (T,)."""
        numbered = dict(enumerate(chosen))
        rows = [self.ways[number].busy_ns(self._copies(number, numbered))[index] for number, index in numbered.items()]
        longest: FloatArray = np.max(rows, axis=0)
        return longest

    def tilings(self, chosen: Sequence[int]) -> list[Tiling]:
        """The tiling of each population, with axon maps that suit the chosen cuts of its readers."""
        numbered = dict(enumerate(chosen))
        found = []
        for number, index in numbered.items():
            ways = self.ways[number]
            copies = zip(ways.reads, self._copies(number, numbered), strict=True)
            found.append(ways.candidates.sending([(read.edge, each) for read, each in copies]).tiling(index))
        return found

    def _copies(self, number: int, chosen: Mapping[int, int]) -> tuple[float, ...]:
        reads = self.ways[number].reads
        return tuple(float(self.ways[read.reader].fan_outs[read.index, chosen[read.reader]]) for read in reads)

    def _judge(self, number: int, copies: tuple[float, ...]) -> tuple[npt.NDArray[np.int64], FloatArray]:
        """The ways that keep every limit, and for every way its longest term at any step, in ns."""
        if (number, copies) not in self._judged:
            ways = self.ways[number]
            usable = np.flatnonzero(ways.fits(copies)).astype(np.int64)
            self._judged[number, copies] = usable, ways.busy_ns(copies).max(axis=1)
        return self._judged[number, copies]

    def _keeps(self, number: int, copies: tuple[float, ...], index: int, target_ns: float) -> bool:
        usable, busy = self._judge(number, copies)
        return bool(busy[index] <= target_ns) and index in usable

    def _best(self, number: int, copies: tuple[float, ...], target_ns: float, prices: _Prices) -> int | None:
        ways = self.ways[number]
        usable, busy = self._judge(number, copies)
        usable = usable[busy[usable] <= target_ns]
        if not len(usable):
            return None
        messages = ways.messages[usable]
        cost = ways.cores[usable] + prices.word * ways.words[usable] + prices.message * messages
        # lexsort's last key leads
        return int(usable[np.lexsort((busy[usable], messages, cost))[0]])


def optimize(
    default: Placement,
    activity: Activity,
    told: str,
    goal: Goal,
    *,
    cores_percent: int = CORES_PERCENT,
    seed: int = 0,
) -> Placement:
    """Find a layout for a goal, never worse than the default; its ``layout`` describes both of them and a bound.

    Args:
        default: The layout with the fewest cores, whose cores fit; it may exceed limits that no layout changes.
        activity: The activity by which all layouts are judged.
        told: What that activity is, in words.
        goal: What to make small: ``"time"``, the mean step, or ``"energy"``, the energy of a sample.
        cores_percent: The most cores that the layout may take, in percent of the default's; at least 100.
        seed: The seed of the order in which populations are tried in other ways; the same seed gives the same layout.

    Raises:
        FileFormatError: The chip's constants let a step take no time.
    """
    chip = default.chip
    most = min(default.cores * cores_percent // 100, chip.chips_per_system * chip.cores_per_chip)
    allowed = max(most, default.cores)
    ways = ways_of(default, activity)
    cutter = _Cutter(ways)
    start = tuple(
        int(np.flatnonzero((each.candidates.tiles == placed.tiling.tile).all(axis=1))[0])
        for each, placed in zip(ways, default.layers, strict=True)
    )
    before = predict(activity, default)
    best, best_found, shortest = default, before, float(cutter.busy_ns(start).max())
    judge = _Judge(cutter, goal, activity, before)
    cuts = sorted(
        set(_searched(cutter, judge, start, shortest, allowed, np.random.default_rng(seed))),
        key=lambda each: (float(f"{judge.optimistic(each):.{DIGITS}g}"), each),
    )
    for each in cuts:
        if judge.optimistic(each) >= judge.figure(best_found):
            break
        tilings = cutter.tilings(each)
        for sites in curves(chip, cutter.cores(each)):
            tried = lay_out(tilings, chip, sites)
            found = predict(activity, tried)
            if set(tried.violations) <= set(default.violations) and judge.figure(found) < CLEARLY * judge.figure(
                best_found
            ):
                best, best_found = tried, found
            if goal == "time" and all(term != LINKS for _, term in found.steps.slowest):
                # another curve could only shorten the way of the farthest message
                break
    layout = _compared(ways, activity, told, goal, seed, allowed, (default, before), (best, best_found))
    return replace(best, layout=layout)


def compare(chosen: Placement, default: Placement, activity: Activity, told: str) -> Layout | None:
    """Compare an optimised layout with the default at another activity; None for a layout that is not optimised.

    Args:
        chosen: The layout.
        default: The layout with the fewest cores, of the same program on the same chip.
        activity: The activity by which both layouts and the bound are judged.
        told: What that activity is, in words.
    """
    if chosen.layout is None:
        return None
    goal, seed, allowed = chosen.layout["goal"], chosen.layout["seed"], chosen.layout["cores_allowed"]
    pairs = [(each, predict(activity, each)) for each in (default, chosen)]
    return _compared(ways_of(default, activity), activity, told, goal, seed, allowed, pairs[0], pairs[1])


def _compared(
    ways: Sequence[Ways],
    activity: Activity,
    told: str,
    goal: Goal,
    seed: int,
    allowed: int,
    default: tuple[Placement, Prediction],
    chosen: tuple[Placement, Prediction],
) -> Layout:
    """The record of a choice: what the default and the chosen layout take, and the bound."""
    tables, chip = tables_of(ways), default[0].chip
    known = chosen[1]
    least = (
        _least_step_ns(tables, allowed, known.steps.busy_ns, chip)
        if goal == "time"
        else _least_energy_mj(tables, allowed, ways, known, activity, chip)
    )
    figure = known.totals.step_ns if goal == "time" else known.totals.energy_mj
    return {
        "goal": goal,
        "activity": told,
        "seed": seed,
        "cores_allowed": allowed,
        "default": predicted(*default),
        "chosen": predicted(*chosen),
        "least": min(least, figure),
    }


def predicted(placement: Placement, found: Prediction) -> Predicted:
    """The cores, time and energy of a layout, as files hold them."""
    return {
        "cores": placement.cores,
        "chips": placement.chips,
        "step_ns": found.totals.step_ns,
        "step_ns_between": [found.low.step_ns, found.high.step_ns],
        "energy_mj": found.totals.energy_mj,
        "energy_mj_between": [found.low.energy_mj, found.high.energy_mj],
    }


class _Judge:
    """The figure that a goal compares: of layouts, and a lower bound for cuts whose cores have no places yet."""

    def __init__(self, cutter: _Cutter, goal: Goal, activity: Activity, any_layout: Prediction) -> None:
        self.goal = goal
        self._cutter = cutter
        self._timesteps = activity.timesteps
        self._computing_pj = computing_pj(any_layout)

    def figure(self, found: Prediction) -> float:
        """The figure that is to be small: the mean step in ns, or the energy of a sample in mJ."""
        return found.totals.step_ns if self.goal == "time" else found.totals.energy_mj

    def optimistic(self, cuts: Sequence[int]) -> float:
        """A lower bound on the figure, wherever the cores lie: links take no time, and no message leaves its tile."""
        chip = self._cutter.chip
        step_ns = float(self._cutter.busy_ns(cuts).mean()) + chip.step_ns
        if self.goal == "time":
            return step_ns
        chips = -(-self._cutter.cores(cuts) // chip.cores_per_chip)
        delivered = chip.spike_in_tile_pj * self._cutter.messages(cuts)
        static = chips * chip.static_mw_per_chip * step_ns * self._timesteps
        return (self._computing_pj + delivered + static) * 1e-9


def computing_pj(any_layout: Prediction) -> float:
    """The energy of a sample's operations and updates, which is the same in every layout, in pJ."""
    return sum(layer.synapses_pj + layer.neurons_pj for layer in any_layout.layers)


def _searched(
    cutter: _Cutter,
    judge: _Judge,
    start: tuple[int, ...],
    shortest: float,
    allowed: int,
    rng: np.random.Generator,
) -> Iterator[tuple[int, ...]]:
    """Cuts that are worth laying out: the default's own, and the best for each price of messages and limit of cores."""
    yield start
    best = judge.optimistic(start)
    for share in MESSAGE_PRICES:
        found = _shortest(cutter, start, share, shortest, allowed, rng)
        if found is not None:
            best = min(best, judge.optimistic(found))
            yield found
    if judge.goal == "time":
        return
    # each chip in use takes power, so fewer and fewer chips are tried, as long as that may be better
    for chips in range(-(-allowed // cutter.chip.cores_per_chip) - 1, 0, -1):
        found = _shortest(cutter, start, MESSAGE_PRICES[1], shortest, chips * cutter.chip.cores_per_chip, rng)
        if found is None or judge.optimistic(found) > WORSE * best:
            return
        best = min(best, judge.optimistic(found))
        yield found


def _shortest(
    cutter: _Cutter, start: tuple[int, ...], share: float, longest: float, limit: int, rng: np.random.Generator
) -> tuple[int, ...] | None:
    """The cuts with the shortest target that keep to a limit of cores, at a price of messages; None if none do."""
    messages = cutter.messages(start)
    message_price = share * cutter.cores(start) / messages if messages else 0.0
    best: tuple[int, ...] | None = None
    target, prices = longest, _Prices(0.0, message_price)
    for price in MAP_PRICES:
        tried = _Prices(price / max(cutter.chip.axon_map_per_core, 1), message_price)
        found = _bisected(cutter, target, tried, {}, limit)
        if found is not None:
            best, target, prices = found, float(cutter.busy_ns(found).max()), tried
    if best is None:
        return None
    for _ in range(ROUNDS):
        before = cutter.cost(best, prices)
        best = _improved(cutter, target, prices, best, limit, rng)
        found = _bisected(cutter, target, prices, dict(enumerate(best)), limit)
        if found is not None:
            best, target = found, float(cutter.busy_ns(found).max())
        elif cutter.cost(best, prices) >= before:
            break
    return best


def _improved(
    cutter: _Cutter, target: float, prices: _Prices, best: tuple[int, ...], limit: int, rng: np.random.Generator
) -> tuple[int, ...]:
    """Cuts that keep to the same target and cost no more: each population in turn is tried in its other ways."""
    cost = cutter.cost(best, prices)
    for number in rng.permutation(len(best)).tolist():
        for other in cutter.others(number, target):
            kept = dict(enumerate(best)) | {number: other}
            # the populations that send to this one are cut anew, or as before
            anew = {each: index for each, index in kept.items() if each not in cutter.senders[number]}
            for wanted in (anew, kept):
                tried = cutter.cut(target, prices, wanted)
                if tried is None or cutter.cores(tried) > limit:
                    continue
                found = cutter.cost(tried, prices)
                if found < cost:
                    best, cost = tried, found
    return best


def _bisected(
    cutter: _Cutter, target: float, prices: _Prices, wanted: Mapping[int, int], limit: int
) -> tuple[int, ...] | None:
    """The cuts with the shortest target, at most ``SHORTER`` times the given one; None if there are none."""

    def within(target_ns: float) -> tuple[int, ...] | None:
        found = cutter.cut(target_ns, prices, wanted)
        return found if found is not None and cutter.cores(found) <= limit else None

    found = within(target * SHORTER)
    if found is None:
        return None
    high, low = target * SHORTER, 0.0
    while high - low > PRECISION * high:
        middle = (high + low) / 2
        tried = within(middle)
        if tried is None:
            low = middle
        else:
            found, high = tried, middle
    return found


def _least_step_ns(tables: Sequence[Table], cores: int, known: FloatArray, chip: Chip) -> float:
    """A lower bound on the mean step over all layouts on ``cores`` cores, in ns; at most that of the known steps."""
    return least_busy_ns(tables, cores, known) + chip.step_ns


def _least_energy_mj(
    tables: Sequence[Table],
    cores: int,
    ways: Sequence[Ways],
    known: Prediction,
    activity: Activity,
    chip: Chip,
) -> float:
    """A lower bound on the energy of a sample, in mJ, over all layouts on ``cores`` cores.

    Operations and updates are the same in every layout. As few messages as possible arrive, and cross no hop. For each
    number of chips, static power is taken for a lower bound on the step; the number with the least energy counts.
    """
    delivered = sum(float(table.fan_outs @ each.through) for each, table in zip(ways, tables, strict=True))
    picojoules = computing_pj(known) + delivered * chip.spike_in_tile_pj
    fewest = sum(int(table.cores.min()) for table in tables)
    static = known.totals.energy_mj * 1e9 - picojoules
    for chips in range(-(-cores // chip.cores_per_chip), -(-fewest // chip.cores_per_chip) - 1, -1):
        each = chips * chip.static_mw_per_chip * activity.timesteps
        if each == 0:
            return picojoules * 1e-9
        # a step matters only if its static energy is below the least that is known
        known_ns = max(static / each - chip.step_ns, 0.0)
        limit = min(chips * chip.cores_per_chip, cores)
        static = min(static, each * _least_step_ns(tables, limit, np.full(activity.timesteps, known_ns), chip))
    return (picojoules + static) * 1e-9
