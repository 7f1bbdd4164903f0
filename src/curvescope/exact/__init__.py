"""Exact matrices in float64: closed forms, autodiff for the rest, exact arithmetic."""
