"""A process that refused a file ends normally."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[4]
PROCESSES = 40
# A process imports the reader once and then forks, because the imports take a second. Each child refuses a file in the
# middle, and ends as every Python process does. Without `freeze` the children would copy and collect all objects.
SCRIPT = f"""
import gc, json, os, sys
import pyarrow.csv, pyarrow.json, pyarrow.parquet
from airflow_mlops.core.errors import MLOpsError
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.ingest.sources import files
from airflow_mlops.stages.ingest.sources.formats import source_file
from airflow_mlops.stages.ingest.spec import IngestSpec
from airflow_mlops.stages.ingest.step import run

source_file.BLOCK_BYTES = 4096
gc.freeze()
names, codes = sys.argv[1:], []
for number in range({PROCESSES}):
    child = os.fork()
    if not child:
        spec = IngestSpec(name="raw", files=[names[number % len(names)]])
        try:
            run(spec, StepContext(ArtifactStore("memory://store")))
        except MLOpsError as error:
            sys.exit(error.retryable)
        sys.exit("The file was read.")
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(codes))
"""


def test_processes_that_refuse_a_file_end_normally(tmp_path):
    # A thread of Arrow that read a file of Python aborted 3 of 60 processes.
    (tmp_path / "a.csv").write_bytes(b"a,b\n1,2\n3\n" * 10_000)
    (tmp_path / "a.jsonl").write_bytes(b'{"a": 1}\n' * 2_000 + b'{"a": }\n' + b'{"a": 1}\n' * 50_000)
    (tmp_path / "a.json").write_bytes(b"[" + b'{"a": 1},' * 2_000 + b'{"a": }' + b',{"a": 1}' * 50_000 + b"]")
    command = [sys.executable, "-c", SCRIPT, *(str(path) for path in sorted(tmp_path.iterdir()))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout) == [0] * PROCESSES, done.stderr[-2000:]
