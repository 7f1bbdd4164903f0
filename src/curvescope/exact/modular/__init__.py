"""Ranks by exact arithmetic modulo primes."""
