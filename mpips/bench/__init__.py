"""What `mpips bench` measures: this package beside the limits of the machine and beside its rivals, interleaved in one run.

| file       | measures                                                                                      |
|------------|-----------------------------------------------------------------------------------------------|
| limits     | a copy, raw Put and Get, the bytes of an update, the fused update alone                         |
| rivals     | a two-sided parameter server, Allreduce, gloo                                                 |
| verbs      | push, pull, view, in place, rounds; optimizers, staleness, many small tables                     |
| row_limits | rows of a large table: a take, the update alone, a two-sided server of rows                     |
| row_verbs  | push, pull and rounds of rows; rows that are born                                               |
| waiting    | idle servers, first answers, what polling costs a busy machine                                  |
| stragglers | one slow worker, and workers that are slow in turn                                            |
| starting   | the time to the first line of the user's function, memory of a server                           |
| accuracy   | time to accuracy of the digits model                                                          |

The files above know nothing of each other: each gives functions that all ranks call and that return samples. `running` puts them
in turn, `report` makes medians of them, and `text`, `plot` and `targets` show a report.
"""

from mpips.bench.report import Report, read, write
from mpips.bench.running import GROUPS, Options, measure

__all__ = ["GROUPS", "Options", "Report", "measure", "read", "write"]
