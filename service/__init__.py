"""The service: everything that talks to the world, above detectors and kernels, which do not.

Names differ from the common proposal in two places: `reports.py` holds what commands print, so that `__main__.py` stays
arguments and exit codes; `view.py` is the one thing that HTTP and metrics may see of the worker.
"""
