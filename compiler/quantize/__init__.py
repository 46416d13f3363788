"""From real numbers to integers: the plan, what chooses it, and the lowering."""
