"""Where each row of a row table lies: a hash map from int64 ids to slot numbers, all of it NumPy passes.

Open addressing with linear probing (Knuth, TAOCP 3, 6.4). Key and slot stand next to each other, so a probe is one cache
miss. All ids take their first probe together; what is left takes windows of cells that double from round to round.

>>> import numpy as np
>>> known = Directory()
>>> known.insert(np.array([7, -1]), np.array([0, 1]))
>>> known.lookup(np.array([-1, 5, 7]))
array([ 1, -1,  0])
"""

from __future__ import annotations

from typing import Any

import numpy as np

Ints = np.ndarray[Any, np.dtype[np.int64]]
Words = np.ndarray[Any, np.dtype[np.uint64]]

EMPTY, GONE = -1, -2  # in place of a slot; a cell that is GONE keeps its key
SMALLEST = 64  # cells; there may be up to 2**31
SLICE = 1 << 14  # ids a pass works on: its temporaries stay in a cache of half a megabyte
FEW = 128  # ids for which one wide round, of several cells each, costs less than several narrow ones
WINDOW = 8  # cells of the first wide round
WIDEST = 1 << 9  # cells of the last one, so that a round looks at no more than 65536


def mix(ids: Any) -> Words:
    """Return the 64-bit hashes of int64 ids as a new uint64 array: a bijection, every bit depends on every bit.

    The finaliser of splitmix64 (Steele et al., OOPSLA 2014), which is Stafford's variant 13 of MurmurHash3's.
    """
    words = np.array(ids, np.int64).view(np.uint64)
    shifted = np.empty_like(words)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        words ^= np.right_shift(words, np.uint64(shift), out=shifted)
        words *= np.uint64(factor)
    words ^= np.right_shift(words, np.uint64(31), out=shifted)
    return words


def owners(ids: Any, servers: int) -> Ints:
    """Return the server of each id, an int64 array; by the high half of its hash, for a directory uses the low bits."""
    high = mix(ids)
    high >>= np.uint64(32)
    high *= np.uint64(servers)
    high >>= np.uint64(32)
    return high.view(np.int64)


def _room(n: int) -> int:
    """Return the number of cells for `n` ids: a power of two, at most half of it taken."""
    return max(SMALLEST, 1 << (2 * n - 1).bit_length())


class Directory:
    """A map from any int64 id to a slot from 0; not for several threads while one of them changes it.

    It begins with room for `capacity` ids, so that it does not grow up to there, and never becomes smaller.
    """

    def __init__(self, capacity: int = 0) -> None:
        self._least = _room(capacity)
        self.clear()

    def __len__(self) -> int:
        return self._live

    @property
    def nbytes(self) -> int:
        """Bytes of the cells: 16 each, and at least two for an id."""
        return self._cells.nbytes

    def clear(self) -> None:
        """Forget all ids; the room that was reserved stays."""
        self._empty(self._least)

    def items(self) -> tuple[Ints, Ints]:
        """Return all ids and their slots, two new int64 arrays in no particular order."""
        found = np.flatnonzero(self._cells[:, 1] >= 0)
        return self._flat[2 * found], self._flat[2 * found + 1]

    def lookup(self, ids: Any) -> Ints:
        """Return the slot of each id or -1, as int64; ids are int64 in any order, repeats allowed."""
        ids = np.asarray(ids, np.int64)
        out = np.empty(len(ids), np.int64)
        for at in range(0, len(ids), SLICE):
            self._find(ids[at : at + SLICE], out[at : at + SLICE], None)
        return out

    def insert(self, ids: Any, slots: Any) -> None:
        """Add ids, each with its slot from 0; the caller makes sure that they are unique and not in it."""
        ids, slots = np.asarray(ids, np.int64), np.asarray(slots, np.int64)
        assert ids.shape == slots.shape
        n = self._live + len(ids)
        if 2 * (n + self._gone) > len(self._cells):
            size = max(self._least, _room(n))
            if size <= len(self._cells):  # only drops what is gone: with room to spare, or it comes again soon
                size = max(self._least, _room(n + n // 4))
        elif len(ids) > max(self._live, SLICE, len(self._cells) // 8):
            size = len(self._cells)  # most of the cells change: in order of place is faster
        else:
            for at in range(0, len(ids), SLICE):
                part = ids[at : at + SLICE]
                self._claim(part, slots[at : at + SLICE], self._homes(part))
            return
        if self._live:
            old = self.items()
            ids, slots = np.concatenate((old[0], ids)), np.concatenate((old[1], slots))
        self._rebuild(ids, slots, size)

    def remove(self, ids: Any) -> Ints:
        """Take ids out and return the slots they had, as int64; -1 for what is not in it."""
        ids = np.asarray(ids, np.int64)
        slots, places = np.empty(len(ids), np.int64), np.empty(len(ids), np.int64)
        for at in range(0, len(ids), SLICE):
            self._find(ids[at : at + SLICE], slots[at : at + SLICE], places[at : at + SLICE])
        places = np.unique(places[slots >= 0])
        self._flat[2 * places + 1] = GONE
        self._live -= len(places)
        self._gone += len(places)
        if 4 * self._gone > len(self._cells):
            self._rebuild(*self.items(), max(self._least, _room(self._live + self._live // 4)))
        return slots

    def _empty(self, size: int) -> None:
        """Start with `size` cells that are all empty."""
        self._cells = np.full((size, 2), EMPTY, np.int64)
        self._flat = self._cells.reshape(-1)
        self._mask = size - 1
        self._live = self._gone = 0

    def _homes(self, ids: Ints) -> Ints:
        """Return the cells where the search for each id begins."""
        words = mix(ids)
        words &= np.uint64(self._mask)
        return words.view(np.int64)

    def _find(self, ids: Ints, out: Ints, places: Ints | None) -> None:
        """Write the slot of each id or -1 to `out`, and to `places` the cells of those that are found.

        A key is in at most one cell that is taken, and no cell that is GONE with this key stands before that one, for an insert
        takes the first free cell: so the first cell with the key decides.
        """
        at = self._homes(ids)
        cells = self._cells.take(at, 0)
        out[:] = cells[:, 1]
        if places is not None:
            places[:] = at
        left = np.flatnonzero((cells[:, 0] != ids) & (out != EMPTY))
        ids, at = ids.take(left), at.take(left)
        width = WINDOW
        while len(left):
            at += 1
            at &= self._mask
            if len(left) <= FEW:
                window = self._window(at, width)
                cells = self._cells.take(window, 0)
                at = _first((cells[:, :, 0] == ids[:, None]) | (cells[:, :, 1] == EMPTY), window)
                width = min(2 * width, WIDEST)
            cells = self._cells.take(at, 0)
            slots = cells[:, 1]
            out[left] = slots  # of those that go on too: it is written again
            if places is not None:
                places[left] = at
            more = np.flatnonzero((cells[:, 0] != ids) & (slots != EMPTY))
            left, ids, at = left.take(more), ids.take(more), at.take(more)
        np.maximum(out, EMPTY, out=out)

    def _claim(self, ids: Ints, slots: Ints, at: Ints) -> None:
        """Put each id into the first free cell from `at` on; of several that want one cell the last gets it."""
        self._live += len(ids)
        width = WINDOW
        while len(ids):
            if len(ids) <= FEW:
                window = self._window(at, width)
                at = _first(self._flat.take(2 * window + 1) < 0, window)
                width = min(2 * width, WIDEST)
            where = 2 * at
            before = self._flat.take(where + 1)
            free = np.flatnonzero(before < 0)
            want, keys = where.take(free), ids.take(free)
            self._flat[want] = keys
            won = np.flatnonzero(self._flat.take(want) == keys)
            mine = free.take(won)
            self._flat[want.take(won) + 1] = slots.take(mine)
            self._gone -= int(np.count_nonzero(before.take(mine) == GONE))
            lost = np.ones(len(ids), np.bool_)
            lost[mine] = False
            rest = np.flatnonzero(lost)
            ids, slots, at = ids.take(rest), slots.take(rest), at.take(rest)
            at += 1
            at &= self._mask

    def _window(self, at: Ints, width: int) -> Ints:
        """Return (len(at), width) cells, a row for each of `at`: that one and those after it."""
        window = at[:, None] + np.arange(min(width, len(self._cells)))
        window &= self._mask
        return window

    def _rebuild(self, ids: Ints, slots: Ints, size: int) -> None:
        """Fill `size` new cells, without rounds: in the order of their homes each id lies at home or after the one before."""
        self._empty(size)
        order = self._homes(ids)
        order <<= 32
        order |= np.arange(len(ids))  # sorting pairs as one number is twice as fast as argsort
        order.sort()
        homes = order >> 32
        order &= 0xFFFFFFFF
        count = np.arange(len(ids))
        homes -= count
        at = np.maximum.accumulate(homes, out=homes)
        at += count
        fits = int(np.searchsorted(at, size))
        at *= 2
        self._flat[at[:fits]] = ids[order[:fits]]
        at += 1
        self._flat[at[:fits]] = slots[order[:fits]]
        self._live = fits
        over = order[fits:]  # all cells from their homes to the end are taken
        self._claim(ids[over], slots[over], np.zeros(len(over), np.int64))


def _first(hits: np.ndarray[Any, np.dtype[np.bool_]], window: Ints) -> Ints:
    """Return the first cell of each row of `window` that is hit, or the row's last one."""
    hits[:, -1] = True
    found: Ints = window[np.arange(len(window)), hits.argmax(1)]
    return found
