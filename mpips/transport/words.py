"""The map of a server's window: control words, then two copies of its shard, then two mailbox halves for every worker.

    words | catalogue | spools | copy 0 | copy 1 | worker 0: half 0, half 1 | worker 1: half 0, half 1 | ... | logs | answers | rows

Where the halves of all workers would take too much memory, each worker has a ring of a few blocks instead (`mpips.worker.rings`).

Tables of rows have one copy, because few rows change at a time: for each table MARK[row], then the values. A mark is twice the
number of the row's folds, and one more while it is being changed, so who has read a row between two equal, even marks has read it
whole. What workers push of rows goes through a log for each client, which is a ring too (`mpips.worker.row_push`). Who cannot
gather rows itself asks for them through its log, and finds them among its answers (`mpips.worker.row_ask`).

A control word has 8 bytes, is aligned, and has one writer for its whole life (but for bells, see `doze`); the words of each
writer start on a cache line of their own. No word is ever packed with data. Everybody may read every word.

Written by the server
    FLOOR[table]        BSP: clocks folded. Otherwise: clocks that every live worker has completed, with all their pushes published
    ACK[worker][table]  number of the worker's last push of this table that is published; its mailbox half is free again
    block[slot]         VERSION (folds published), BEGIN (version being written or last written), TICK 0 and TICK 1 (for each
                        copy: clock of the fold that made it, plus one)
    HELD[client]        the last HOLD of this client that is in force
    TAIL[client]        pieces of its ring that have been added up; their bytes and records are free again
    LOG_TAIL[client]    pieces of its log that have been folded, put aside or answered, likewise
    COUNT[table][i]     of a table of rows, how many there are and what has happened to them, see `mpips.server.row_table`
    others              see the names below
Written by a client (workers first, then readers)
    COMMIT              number of this worker's last committed push; the push exists by this number alone
    STAMP[table][half]  the number of the push that fills this half, and its (clock << 1 | void)
    ARRIVAL[half][slot] number of the push whose block stands whole in this half, committed or not; only on the node
    RECORD[i]           a piece in the ring: number and clock of its push; blocks lo << 32 | hi; first byte << 1 | it is the push's
                        last on this server. `i` is the count of pieces before it, modulo RECORDS
    HEAD                pieces that stand whole in the ring, counted from the start
    LOG[i], LOG_HEAD    the same for the log; in place of the blocks, table << 32 | rows. Number 0: a question, and in place of the
                        clock the byte of the answers where the values are to go, or, if it is not "the last", where they lie
    CLOCK               clocks completed
    END                 0 while it lives, else final clock + 1
    others              see the names below
Written by another server
    PEER words, one line for each server
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mpips.layout import align

PROTOCOL = 7  # raised whenever a word or a rule of the protocol changes its meaning
WORD = 8
LINE = 16  # words; two cache lines, because processors fetch lines in pairs

# Words of the server, from `Words.server`
BARRIER_FLOOR = 0  # smallest barrier count of the live workers
STOP_SERIAL = 1  # server 0: workers are asked to stop for cut number ...
STOP_CLOCK = 2  # ... at the first clock that is at least this one
GO = 3  # server 0: cuts up to this number are taken, go on
DONE = 4  # 1 when every worker has ended and all is published
CREATED = 5  # tables of the catalogue that exist here
DEAD = 6  # reserved: bits of the workers that are known to have died
FAILED = 7  # reserved: why this server ends the job
ASLEEP = 8  # 1 while it waits for BELL to change, see `doze`
SAVING = 9  # steps made of the checkpoint that it is writing, 0 if of none

# Words of a client, from `Words.client(k)`
COMMIT = 0
CLOCK = 1
END = 2
HEARTBEAT = 3  # reserved: a count that grows while the process lives
HOLD = 4  # serial << 32 | (table + 1), or serial << 32 when nothing is held
SAVE = 5  # a checkpoint is wanted when this many clocks are complete
BARRIER = 6  # barriers reached
STOPPED = 7  # cut number << STOPPED_BITS | clock at which the worker stands still
CREATE = 8  # number of the last request in this client's spool on server 0
VOIDS = 9  # pushes left out because of NaN or Inf
NEED = 10  # on server 0: while it waits it cannot stop, and those it waits for must come to this clock
COMING = 11  # number of a push under way whose arrivals are told, see `mpips.server.ahead`
HEAD = 12  # pieces in the ring so far, taken out or not
LOG_HEAD = 13  # pieces in the log so far, taken out or not
CLIENT_WORDS = 14  # as many fit in a line
STOPPED_BITS = 40  # of the STOPPED word hold the clock

# Words that everybody on the node writes, from `Words.bell`
BELL = 0  # wakes the server; only that it changes has a meaning
CALL = 1  # of the first server of a node: wakes the clients; likewise
WAITED = 2  # 1 if a client waits for CALL to change

# Words of a peer, from `Words.peer(i)`
SHARD_SAVED = 0  # cuts whose shard is on disk
CATALOGUE = 1  # from server 0: tables in the catalogue
CUT = 2  # from server 0: number of the newest cut for which all workers stand

# Words of a block, from `Words.block(slot)`
VERSION, BEGIN, TICK0, TICK1 = 0, 1, 2, 3
BLOCK_WORDS = 4
COUNT_WORDS = 8  # of a table of rows, from `Words.counts(table)`

RECORDS = 64  # pieces that a ring can hold at a time
RECORD_WORDS = 4  # number, clock, blocks, place

PAGE = 4096  # bytes
APART = 2048  # bytes from the beginning of a page at which copies and halves begin. A large array of malloc begins at byte 16 of a
# page. Where a copy goes to an address that is a few bytes further into its page than the one it comes from, `rep movsb`, by which
# memcpy copies 2 to 500 KB, takes up to four times as long (measured on AMD EPYC: 64 KB pieces 2.7 GB/s instead of 10)
MARK = 8  # bytes of a row's mark
SPOOL = 4096  # bytes for one request of a client: a length word and JSON
CATALOGUE_BYTES = 1 << 16  # bytes for all tables created later

NEVER = 1 << 62  # a clock that no worker reaches


@dataclass(frozen=True)
class Words:
    """Word indices, the same on every server. Computed once: verbs ask for them all the time."""

    workers: int
    clients: int
    servers: int
    tables: int  # room for tables, later ones included
    blocks: int  # room for blocks on the server that has the most
    rings: bool = False  # whether pushes of dense tables go through rings
    logs: bool = False  # whether there are tables of rows

    def __post_init__(self) -> None:
        stamps, arrivals = _lines(self.tables * 4), _lines(self.blocks * 2)
        records = RECORDS * RECORD_WORDS
        line = LINE + stamps + arrivals + records * self.rings + records * self.logs
        sections = {  # name -> words in it
            "server": LINE, "floor": _lines(self.tables), "_ack": self.workers * _lines(self.tables),
            "_reply": self.clients * LINE, "_block": _lines(self.blocks * BLOCK_WORDS),
            "_counts": _lines(self.tables * COUNT_WORDS) * self.logs, "_peer": self.servers * LINE,
            "_client": self.clients * line, "bell": LINE,
        }
        at = 0
        for name, size in sections.items():
            object.__setattr__(self, name, at)
            at += size
        object.__setattr__(self, "count", at)
        object.__setattr__(self, "_tables", _lines(self.tables))
        object.__setattr__(self, "_arrivals", LINE + stamps)
        object.__setattr__(self, "_records", LINE + stamps + arrivals)
        object.__setattr__(self, "_log", LINE + stamps + arrivals + records * self.rings)
        object.__setattr__(self, "_client_size", line)

    server: int = field(init=False)  # first of the server's own single words
    floor: int = field(init=False)  # FLOOR of table 0; the others follow
    bell: int = field(init=False)  # first of the words that everybody on the node writes
    count: int = field(init=False)  # number of words in all
    _ack: int = field(init=False)
    _reply: int = field(init=False)
    _block: int = field(init=False)
    _counts: int = field(init=False)
    _peer: int = field(init=False)
    _client: int = field(init=False)
    _tables: int = field(init=False)
    _arrivals: int = field(init=False)
    _records: int = field(init=False)
    _log: int = field(init=False)
    _client_size: int = field(init=False)

    def ack(self, worker: int) -> int:
        """ACK of table 0 for this worker; the other tables follow."""
        return self._ack + worker * self._tables

    def reply(self, client: int) -> int:
        """Line of the server's words for one client, see below."""
        return self._reply + client * LINE

    def block(self, slot: int) -> int:
        """First of the words of a block."""
        return self._block + slot * BLOCK_WORDS

    def counts(self, table: int) -> int:
        """First of the words that count what happens to a table of rows."""
        return self._counts + table * COUNT_WORDS

    def peer(self, server: int) -> int:
        """First of the words that another server writes here."""
        return self._peer + server * LINE

    def client(self, client: int) -> int:
        """First of the words of a client."""
        return self._client + client * self._client_size

    def stamp(self, client: int, table: int, half: int) -> int:
        """First of the two words that describe a mailbox half of one table."""
        return self._client + client * self._client_size + LINE + (table * 2 + half) * 2

    def arrival(self, client: int, slot: int, half: int) -> int:
        """ARRIVAL of a block in a mailbox half."""
        return self._client + client * self._client_size + self._arrivals + half * self.blocks + slot

    def record(self, client: int, count: int) -> int:
        """First of the words of the record that follows `count` others in a client's ring."""
        return self._client + client * self._client_size + self._records + count % RECORDS * RECORD_WORDS

    def log(self, client: int, count: int) -> int:
        """First of the words of the record that follows `count` others in a client's log."""
        return self._client + client * self._client_size + self._log + count % RECORDS * RECORD_WORDS

    def owned(self, server: int) -> list[tuple[int, int]]:
        """Ranges of words that server `server` itself writes in its own window."""
        return [(0, self.peer(0)), (self.peer(server), self.peer(server + 1))]


# Words of `Words.reply(k)`
HELD = 0  # the HOLD word that is in force
SAVE_SEEN = 1  # the last SAVE word taken note of
SAVE_DONE = 2  # server 0: this worker's clock in the newest complete checkpoint
CREATE_DONE = 3  # server 0: the last CREATE request answered (negative: refused, the reason is in the spool)
TAIL = 4  # pieces taken out of its ring
LOG_TAIL = 5  # pieces taken out of its log


def _lines(words: int) -> int:
    return align(max(words, 1), LINE)


def region(nbytes: int) -> int:
    """Bytes from one copy or half of `nbytes` to the next."""
    return align(nbytes + APART, PAGE)


@dataclass(frozen=True)
class RowPlace:
    """Where the rows of a table stand in the window of one server.

    Attributes:
        table: its number.
        rows: how many there is room for.
        marks: first byte of MARK, (rows,) int64.
        values: first byte of the values, `width` bytes for each row.
        owners: first byte of the ids that the rows have now, (rows,) int64; -1 where the ids are known beforehand.
    """

    table: int
    rows: int
    width: int
    marks: int
    values: int
    owners: int = -1


@dataclass(frozen=True)
class Map:
    """Byte offsets in the window of one server whose shard has `nbytes` bytes (spare space included).

    Attributes:
        ring: bytes of each worker's ring, 0 where it has two mailbox halves.
        log: bytes of each client's log, 0 where no table has rows.
        answer: bytes of each client's answers, 0 where nobody asks.
        tables: number, rows and bytes of a row of each table of rows, as they lie on this server, and whether ids come and go.
        spare: bytes of `nbytes`, the last, that no table has at first.
        catalogue: first byte of the descriptions of tables created later.
        region: bytes from one copy or half to the next; a whole number of pages, so that no two writers share one.
        rows: where they stand, by table.
        size: bytes of the whole window.
    """

    words: Words
    nbytes: int
    ring: int = 0
    log: int = 0
    answer: int = 0
    tables: tuple[tuple[int, int, int, bool], ...] = ()
    spare: int = 0
    catalogue: int = field(init=False)
    region: int = field(init=False)
    rows: dict[int, RowPlace] = field(init=False)
    size: int = field(init=False)
    _copies: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "catalogue", self.words.count * WORD)
        object.__setattr__(self, "region", region(self.nbytes))
        object.__setattr__(self, "_copies", align(self.spool(self.words.clients), PAGE) + APART)
        at, rows = self.answers(self.words.clients), {}
        for number, count, width, named in self.tables:
            marks = align(at, PAGE) + APART
            owners = align(marks + count * MARK, PAGE) if named else -1
            values = align(max(marks + count * MARK, owners + count * WORD), PAGE) + APART
            rows[number] = RowPlace(number, count, width, marks, values, owners)
            at = values + count * width
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "size", align(at, PAGE) if rows else at)

    def filled(self) -> list[tuple[int, int]]:
        """Bytes that are in use from the beginning on: all but spare space, the mailboxes, and rows that come and go."""
        gaps = [(self.copy(number + 1) - self.spare, self.copy(number + 1)) for number in (0, 1) if self.spare]
        gaps.append((self.mailbox(0, 0), self.logs(0)))
        gaps += [(place.owners, place.values + place.width * place.rows) for place in self.rows.values() if place.owners >= 0]
        return list(zip([0, *(stop for _, stop in gaps)], [*(start for start, _ in gaps), self.size], strict=True))

    def box(self, worker: int) -> list[tuple[int, int]]:
        """Bytes of both mailbox halves of a worker that are in use from the beginning on, or of its ring."""
        if self.ring or not self.spare:
            return [(self.mailbox(worker, 0), self.mailbox(worker + 1, 0))]
        return [(at, at + self.region - self.spare) for at in (self.mailbox(worker, 0), self.mailbox(worker, 1))]

    def spool(self, client: int) -> int:
        """First byte of this client's request."""
        return self.catalogue + CATALOGUE_BYTES + client * SPOOL

    def copy(self, number: int) -> int:
        """First byte of copy 0 or 1."""
        return self._copies + number * self.region

    def mailbox(self, worker: int, half: int) -> int:
        """First byte of a mailbox half, or of a worker's ring (half 0)."""
        return self._copies + 2 * self.region + worker * (self.ring or 2 * self.region) + half * self.region

    def logs(self, client: int) -> int:
        """First byte of a client's log."""
        return self.mailbox(self.words.workers, 0) + client * self.log

    def answers(self, client: int) -> int:
        """First byte of a client's answers."""
        return self.logs(self.words.clients) + client * self.answer
