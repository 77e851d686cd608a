"""The gateway: the agent beside an Envoy, and `routes`, the contract between the operator and every agent."""
