"""``run_on=Pod(...)``: the pod's description and manifest, the operator that runs the pod, and errors of pods."""
