"""The command line: parse, run, save; no numerics."""
