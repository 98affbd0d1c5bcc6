"""Python imports this module in the processes of a server whose clock a test sets.

The file MLOPS_TEST_CLOCK contains how many seconds their clock is ahead of the machine's.
"""

import os
import sys
import time
from datetime import timedelta
from pathlib import Path

_ahead, _time = Path(os.environ["MLOPS_TEST_CLOCK"]), time.time
time.time = lambda: _time() + float(_ahead.read_text())

if "airflow_mlops.serving.processes.write" in sys.orig_argv:
    from airflow_mlops.serving.log import spool as log
    from airflow_mlops.serving.log import uptime

    # Days pass quickly, so predictions are uploaded and merged more often.
    log._UPLOAD_SECONDS, log._MERGE_SECONDS = 0.5, 0.5

    # Otherwise a server whose clock jumps counts as suspended.
    uptime.PAUSE = timedelta(days=40)
