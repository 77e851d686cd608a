"""What operator, gateway and runtime must agree on: routes, counts, outcomes, names in the environment, logs. Pure."""
