"""Times products with curvature matrices, ours and our peers', on the same problems."""
