"""What each step is asked for and what it answers: pydantic models, light enough to import while a DAG is parsed."""
