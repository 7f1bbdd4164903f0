"""Ranks by exact arithmetic modulo primes: certificates, and the generic-rank oracle."""

from curvescope.exact.modular.certificate import (
    Certificate,
    certified_ranks,
    elimination_size,
    uncertifiable,
)
from curvescope.exact.modular.elimination import rank_modulo
from curvescope.exact.modular.facts import exact_facts
from curvescope.exact.modular.field import PRIMES, PrimeField
from curvescope.exact.modular.generic import generic_ranks

__all__ = [
    "PRIMES",
    "Certificate",
    "PrimeField",
    "certified_ranks",
    "elimination_size",
    "exact_facts",
    "generic_ranks",
    "rank_modulo",
    "uncertifiable",
]
