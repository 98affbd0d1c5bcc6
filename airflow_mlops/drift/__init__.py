"""Statistical tests of whether a window of data has drifted from a reference, with effect sizes and corrections for
multiple tests.
"""
