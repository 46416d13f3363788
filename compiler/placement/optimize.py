"""A layout for the predicted step or energy: how populations are cut, and in which order cores are filled.

The judge is the model of :mod:`resformer.compiler.placement.price`, with one activity for all layouts.

1. For a target that no core's terms may exceed, populations are cut one after another, readers first, each in the way
   that takes the fewest cores; what a way costs the senders (words of their axon maps) and the mesh (messages) is
   added at a price.
2. Bisection finds the shortest target whose cuts keep to the cores that are allowed, for each of some prices.
3. Single populations are then cut otherwise, in an order that the seed decides, and what sends to them anew, as long as
   cores are freed; then a shorter target is tried.
4. The cores of the best cuts are laid along each of some curves over the mesh, and the model chooses.
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
"""Of a core's axon map that a population's messages fill where they come from, in cores."""
MESSAGE_PRICES = (0.0, 0.1, 0.5)
"""Of all messages together, in times the fewest cores."""
PRECISION = 0.003
"""Targets are told apart by so much of them."""
CLEARLY = 1 - 1e-9
"""Of a figure, what a better one is below: sums of floats may differ by less from run to run."""
DIGITS = 12
"""That count where figures are put in order, likewise."""
WORSE = 1.05
"""Fewer chips are tried until the energy is this times the best."""
SHORTER = 0.99
"""Of a target, what the next is at most."""
ROUNDS = 12
"""Of trying to cut each population otherwise, at most."""


@dataclass(frozen=True)
class _Prices:
    """What a way costs beside its cores, in cores.

    Attributes:
        word: Of a word in senders' axon maps.
        message: Of a message.
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
        """Of each population, those that send to it."""
        self._judged: dict[tuple[int, tuple[float, ...]], tuple[npt.NDArray[np.int64], FloatArray]] = {}
        self._found: dict[tuple[int, tuple[float, ...], float, _Prices], int | None] = {}

    def cut(self, target_ns: float, prices: _Prices, wanted: Mapping[int, int]) -> tuple[int, ...] | None:
        """The way of each population: the one that is wanted of it, if that keeps to the target and to all limits.

        Returns:
            None if a population cannot keep to the target.
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
        """The ways to cut a population that keep to a target in some layout, and that no other beats in all of them."""
        ways = self.ways[number]
        usable, busy = self._judge(number, (1.0,) * len(ways.reads))
        usable = usable[busy[usable] <= target_ns]
        kept = undominated(np.column_stack([ways.cores[usable], ways.fan_outs[:, usable].T]))
        return [int(index) for index in usable[kept]]

    def cost(self, chosen: Sequence[int], prices: _Prices) -> tuple[float, float]:
        """What cuts cost: cores and messages; then words of axon maps."""
        words = sum(float(ways.words[index]) for ways, index in zip(self.ways, chosen, strict=True))
        return round(self.cores(chosen) + prices.message * self.messages(chosen), 6), round(words, 3)

    def cores(self, chosen: Sequence[int]) -> int:
        """How many the cuts take."""
        return sum(int(ways.cores[index]) for ways, index in zip(self.ways, chosen, strict=True))

    def messages(self, chosen: Sequence[int]) -> float:
        """How many arrive at cores in a sample."""
        return sum(float(ways.messages[index]) for ways, index in zip(self.ways, chosen, strict=True))

    def busy_ns(self, chosen: Sequence[int]) -> FloatArray:
        """The longest of all terms but links, (T,)."""
        numbered = dict(enumerate(chosen))
        rows = [self.ways[number].busy_ns(self._copies(number, numbered))[index] for number, index in numbered.items()]
        longest: FloatArray = np.max(rows, axis=0)
        return longest

    def tilings(self, chosen: Sequence[int]) -> list[Tiling]:
        """The cuts, each with what it takes of its cores."""
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
        """The ways that keep every limit, and the longest term of each way at any step."""
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
    """A layout for a goal, never worse than the one with the fewest cores; its ``layout`` tells both and a bound.

    Args:
        default: The layout with the fewest cores, whose cores fit; limits that no layout changes may be exceeded.
        activity: By which all layouts are judged.
        told: What that activity is, in words.
        goal: The step, or the energy of a sample.
        cores_percent: The most cores it may take, in percent of the default's; at least 100.
        seed: Of the order in which populations are cut otherwise; the same seed gives the same layout.

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
                # no other curve is faster but for the way of the farthest message
                break
    layout = _compared(ways, activity, told, goal, seed, allowed, (default, before), (best, best_found))
    return replace(best, layout=layout)


def compare(chosen: Placement, default: Placement, activity: Activity, told: str) -> Layout | None:
    """How an optimised layout and the one with the fewest cores do at another activity; None if it is not optimised.

    Args:
        chosen: The layout.
        default: The one with the fewest cores, of the same program on the same chip.
        activity: By which both are judged, and the bound too.
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
    """Two layouts, each with what it takes, and the bound."""
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
    """What a layout takes, as files say it."""
    return {
        "cores": placement.cores,
        "chips": placement.chips,
        "step_ns": found.totals.step_ns,
        "step_ns_between": [found.low.step_ns, found.high.step_ns],
        "energy_mj": found.totals.energy_mj,
        "energy_mj_between": [found.low.energy_mj, found.high.energy_mj],
    }


class _Judge:
    """What a goal makes of layouts, and of cuts whose cores have no places yet."""

    def __init__(self, cutter: _Cutter, goal: Goal, activity: Activity, any_layout: Prediction) -> None:
        self.goal = goal
        self._cutter = cutter
        self._timesteps = activity.timesteps
        self._computing_pj = computing_pj(any_layout)

    def figure(self, found: Prediction) -> float:
        """What is to be small."""
        return found.totals.step_ns if self.goal == "time" else found.totals.energy_mj

    def optimistic(self, cuts: Sequence[int]) -> float:
        """The least that it can be, however the cores lie: no link is ever full, and no message crosses a tile."""
        chip = self._cutter.chip
        step_ns = float(self._cutter.busy_ns(cuts).mean()) + chip.step_ns
        if self.goal == "time":
            return step_ns
        chips = -(-self._cutter.cores(cuts) // chip.cores_per_chip)
        delivered = chip.spike_in_tile_pj * self._cutter.messages(cuts)
        static = chips * chip.static_mw_per_chip * step_ns * self._timesteps
        return (self._computing_pj + delivered + static) * 1e-9


def computing_pj(any_layout: Prediction) -> float:
    """The energy of a sample's operations and updates, which are those of every layout."""
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
    # each chip in use takes power: as many cores as fewer chips have, as long as that may be better
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
    """Cuts that keep to the same target and cost no more: each population in turn is cut in each other way."""
    cost = cutter.cost(best, prices)
    for number in rng.permutation(len(best)).tolist():
        for other in cutter.others(number, target):
            kept = dict(enumerate(best)) | {number: other}
            # what sends to the population is cut anew, or as before
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
    """The cuts with the shortest target that is clearly below one, or None if there are none."""

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
    """What a step of no layout of so many cores can go below, or the mean of known steps and the barrier."""
    return least_busy_ns(tables, cores, known) + chip.step_ns


def _least_energy_mj(
    tables: Sequence[Table],
    cores: int,
    ways: Sequence[Ways],
    known: Prediction,
    activity: Activity,
    chip: Chip,
) -> float:
    """What a sample of no layout of so many cores can go below.

    Operations and updates are those of any layout; of messages the fewest arrive, over no hop; chips are as many as
    make their static energy least, each number with the least step of so many cores.
    """
    delivered = sum(float(table.fan_outs @ each.through) for each, table in zip(ways, tables, strict=True))
    picojoules = computing_pj(known) + delivered * chip.spike_in_tile_pj
    fewest = sum(int(table.cores.min()) for table in tables)
    static = known.totals.energy_mj * 1e9 - picojoules
    for chips in range(-(-cores // chip.cores_per_chip), -(-fewest // chip.cores_per_chip) - 1, -1):
        each = chips * chip.static_mw_per_chip * activity.timesteps
        if each == 0:
            return picojoules * 1e-9
        # only a step that makes less of it than what is known is of interest
        known_ns = max(static / each - chip.step_ns, 0.0)
        limit = min(chips * chip.cores_per_chip, cores)
        static = min(static, each * _least_step_ns(tables, limit, np.full(activity.timesteps, known_ns), chip))
    return (picojoules + static) * 1e-9
