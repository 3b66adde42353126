"""Studies that compare octave networks with the paper and PySlowFast; not part of the wheel.

They run from a clone, by tools/benchmark.py, tools/analyze.py and tools/model_zoo.py.
"""
