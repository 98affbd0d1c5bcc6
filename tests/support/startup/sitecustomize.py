"""Python imports this module when it starts: all processes that tests start search less often for cyclic garbage.

The imported libraries are many objects. With Python's own thresholds, the search takes a seventh of the CPU time of an import.
"""

import gc

gc.set_threshold(10_000, 10, 10)
