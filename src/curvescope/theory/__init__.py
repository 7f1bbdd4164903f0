"""Pure arithmetic: what theory says of ranks, no array in sight."""
