"""The parts of a ledger entry: verdicts, answers of people, endpoints, canaries, and changes from outside.

They are imported while a DAG is parsed, so they must import quickly.
"""
