"""Parts against real peers: a real Envoy, a real API server, a real MLflow server."""
