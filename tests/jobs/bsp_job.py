"""Steps of pull all, push, clock under BSP; worker 0 prints the final tables' hashes as JSON.

Arguments: a JSON object with servers, clocks (of each worker, cyclic), nodes, and optionally directory, every, resume,
mailboxes, and kill: a role of which number 0 is killed in clock `at`.
"""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import workload

import mpips


def main() -> None:
    options = json.loads(sys.argv[1])
    workload.small_blocks()
    tables = workload.tables()
    names = [t.name for t in tables]

    def work(ps: mpips.Worker) -> dict[str, str]:
        last = options["clocks"][ps.index % len(options["clocks"])]
        for clock in range(ps.now, last):
            if "kill" in options and clock == options["at"] and ps.index == 0:
                os.kill(int(victim.read_text()), signal.SIGKILL)
            values = dict(zip(names, ps.pull(names), strict=True))
            ps.push(workload.gradient(ps.index, clock, values))
            ps.clock()
        return workload.fingerprint(dict(zip(names, ps.pull(names), strict=True)))

    victim = Path(options.get("directory", ".")) / "victim"

    @contextlib.contextmanager
    def around(role: str, index: int, rank: int) -> Iterator[None]:
        if (role, index) == (options.get("kill"), 0):
            victim.write_text(str(os.getpid()))
        yield

    checkpoint = None
    if "directory" in options:
        checkpoint = mpips.Checkpoints(options["directory"], every=options.get("every"), resume=options.get("resume"))
    results = mpips.run(work, tables, servers=options["servers"], nodes=options.get("nodes", "real"), checkpoint=checkpoint,
                        mailboxes=options.get("mailboxes"), device="cpu", around=around)
    if results is not None:
        print(json.dumps(results))


main()
