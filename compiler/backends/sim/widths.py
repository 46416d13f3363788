"""How wide the registers are that ``strips`` and its vectors are written for."""

TILES, TILE_ROWS, TILE_BYTES = 8, 16, 64
"""How many tiles a thread has, and how large they are."""
LANES = 16
"""How many numbers of 32 bits a vector has."""
WORD_LANES = 8
"""How many of them a register has where words are multiplied."""
ROW_BYTES, ROWS_AT_ONCE = 32, 4
"""Of the weights that are added for spikes: how many a register holds, and how many rows a turn of the loop adds."""
INTERLEAVED = tuple(first + each for first in (0, 16, 8, 24) for each in range(8))
"""In which order a register's weights lie, so that two rows' pairs come out in the order of the outputs."""
BASE = 255
"""Of strips' digits: the most that a byte multiplies by."""
HELD = 127 * (BASE + 1)
"""The largest magnitude that two of these digits hold; a word of 16 bits holds it, too."""
