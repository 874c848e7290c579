"""Groups of completions drawn from a policy and judged: what policies learn from by trying."""
