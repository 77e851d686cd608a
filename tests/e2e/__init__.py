"""The whole thing on a real cluster: a real kubelet, real gateways, a real MLflow server, real DSPy programs."""
