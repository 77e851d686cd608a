"""The MLflow registry over its REST API: what a model uri means now. Nothing is ever unpickled here."""
