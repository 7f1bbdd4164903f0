"""Products of ONE batch: kept graphs, columns at once, layers made cheap.

This room knows a model, one batch and a loss; it knows neither the whole data nor
operators nor algorithms.
"""
