"""The operator: watches programs and rollouts, plans, and makes it so."""
