"""Layers' own blocks by the Hessian chain rule: exact, and without forming them."""

from curvescope.exact.chain_rule.blocks import OwnBlock
from curvescope.exact.chain_rule.formed import formed_block
from curvescope.exact.chain_rule.own import OwnBlocks, own_blocks, own_blocks_in_turn
from curvescope.exact.chain_rule.parts import Parts

__all__ = [
    "OwnBlock",
    "OwnBlocks",
    "Parts",
    "formed_block",
    "own_blocks",
    "own_blocks_in_turn",
]
