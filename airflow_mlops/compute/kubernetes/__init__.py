"""``run_on=Pod(...)``: the description of a pod, its manifest, the operator that runs it, and the analysis of failures."""
