"""``run_on=Spark(...)``: the executors of Spark run parts of a step."""
