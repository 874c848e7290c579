"""Recipe, plan, run, store and wiring: the only place that knows everyone."""
