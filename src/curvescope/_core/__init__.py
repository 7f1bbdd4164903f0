"""Leaf helpers that every room may use; they know neither networks nor operators."""
