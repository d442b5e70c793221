"""Steps of pull rows, push rows, clock; worker 0 prints the final values as hexadecimal bytes.

Arguments: a JSON object with servers, clocks (of each worker), and optionally nodes, staleness, directory, every, resume, readers,
cache (rows that each worker keeps of each table; then it also announces what it will want).
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import rows_workload as workload

import mpips


def main() -> None:
    options = json.loads(sys.argv[1])
    tables = workload.tables(options.get("staleness", 0))

    def work(ps: mpips.Worker) -> dict[str, str]:
        for table in tables if "cache" in options else ():
            ps.cache(table.name, options["cache"], keep="lfu" if table.name == "item" else "lru")
        for clock in range(ps.now, options["clocks"][ps.index % len(options["clocks"])]):
            for table in tables:
                ids = workload.batch(table.name, ps.index, clock)
                if "cache" in options:
                    ps.intent(table.name, workload.batch(table.name, ps.index, clock + 1), at_clock=clock + 1)
                values = ps.pull(table.name, rows=ids)
                ps.push(table.name, workload.gradient(table.name, values, clock), rows=ids)
            ps.clock()
        assert ("cache" in options) == (ps.stats["cache_hits"] > 0)
        for table in tables:
            stats = ps.server_stats(table.name)
            assert len(stats) == options["servers"]
            assert all(0 < counts["folded"] <= counts["pushed"] for counts in stats)
        return {t.name: ps.pull(t.name, rows=workload.ids_of(t.name)).tobytes().hex() for t in tables}

    def read(ps: mpips.Reader) -> None:
        while not ps.done:
            for table in tables:
                ps.pull(table.name, rows=workload.ids_of(table.name)[:50])
                ps.server_stats(table.name)

    checkpoint = None
    if "directory" in options:
        checkpoint = mpips.Checkpoints(options["directory"], every=options.get("every"), resume=options.get("resume"))
    readers = options.get("readers", 0)
    results = mpips.run(work, tables, servers=options["servers"], nodes=options.get("nodes", "real"), checkpoint=checkpoint,
                        readers=readers, read=read if readers else None, device="cpu", timeout=60)
    if results is not None:
        print(json.dumps(results))


main()
