"""The sizes of the registers and digits that the compiled loops of ``sim`` are written for."""

TILES, TILE_ROWS, TILE_BYTES = 8, 16, 64
"""AMX: the number of tiles of a thread, the rows of a tile, and the bytes of a row."""
LANES = 16
"""The number of 32-bit numbers in a vector."""
WORD_LANES = 8
"""The number of 32-bit sums in an AVX2 register, where 16-bit words are multiplied."""
ROW_BYTES, ROWS_AT_ONCE = 32, 4
"""Where rows of weights are added for spikes: the int8 weights in a register, and the rows that one turn adds."""
INTERLEAVED = tuple(first + each for first in (0, 16, 8, 24) for each in range(8))
"""The order of a register's weights: with it, the sums of two interleaved rows come out in the order of outputs."""
BASE = 255
"""The base of the digits in ``strips``: the largest factor that an unsigned byte holds."""
HELD = 127 * (BASE + 1)
"""The largest magnitude that two digits to the base ``BASE`` hold; a 16-bit word holds it, too."""
