"""``run_on=Ray(...)``: the step runs as a task of Ray."""
