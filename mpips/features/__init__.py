"""From files and texts to numbers and ids: what stands before a table of rows.

| file     | idea                                                                        |
|----------|-----------------------------------------------------------------------------|
| `lines`  | a text file in blocks of whole lines, each block one worker's               |
| `criteo` | the format of Criteo's click logs, parsed by NumPy                          |
| `clicks` | a generator of such logs with a hidden model, so that the best is known     |
| `words`  | texts as hashed words and pairs of words, and tf-idf as something to beat   |
"""

from __future__ import annotations
