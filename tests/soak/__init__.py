"""Half an hour of releases on a pretended cluster with real gateways, while pods, gateways and the operator are killed.

`make soak`. The control plane, the operator, the agents and their Envoys are real; runtime pods are answered for by one
process, on their own addresses.
"""
