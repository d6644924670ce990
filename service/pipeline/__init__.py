"""The pipeline: poll, decode, buffer until the tick is complete, fold, judge, alert, checkpoint.

Why a tick waits: a collector without message keys spreads one GPU over all partitions, in any order. Rows therefore wait
until every partition has passed the end of their tick, and are then folded in an order that depends on the rows alone.
State after a tick is a function of the set of accepted rows; how the log was cut into fetches, how partitions were
interleaved, and what was delivered twice make no difference. That is what makes a restart exact.
"""
